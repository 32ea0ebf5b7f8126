//! Text of others on its way to a terminal: colours stay, whatever else commands a terminal goes.
//!
//! A line of an app's log, or a message of a server, could otherwise move the cursor over what was
//! said before, set the clipboard or the title, or have the terminal type an answer. Nothing is
//! changed where a file or a program reads along, which decides for itself.

/// What is shown of `text`.
pub(super) fn tame(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(is_command) {
        shown.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(length) = colour(rest) {
            shown.push_str(&rest[..length]);
            rest = &rest[length..];
        } else {
            // A line that is written over and over, such as one of progress, stays readable.
            if rest.starts_with('\r') && !rest.starts_with("\r\n") && rest.len() > 1 {
                shown.push(' ');
            }
            rest = behind(rest);
        }
    }
    shown.push_str(rest);
    shown
}

fn is_command(c: char) -> bool {
    // What turns the direction of text makes a line read as another one.
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && c != '\n' && c != '\t')
}

/// The length of the change of colours that `text` begins with.
fn colour(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("\u{1b}[")?;
    let end = inner.find(|c: char| !(c.is_ascii_digit() || c == ';'))?;
    // Hidden text is no colour.
    let hides = inner[..end].split(';').any(|number| number == "8");
    (inner[end..].starts_with('m') && !hides).then_some(end + 3)
}

/// What is behind the command that `text` begins with.
fn behind(text: &str) -> &str {
    let mut letters = text.chars();
    let first = letters.next();
    let rest = letters.as_str();
    let ends = |c: char| matches!(c, '\u{7}' | '\u{9c}');
    match (first, rest.chars().next()) {
        (Some('\u{1b}'), Some('[')) => {
            let end = rest[1..].find(|c: char| matches!(c, '@'..='~') || c.is_control());
            end.map_or("", |end| skip_one(&rest[1 + end..]))
        }
        // A text for the terminal itself: up to a bell, or to what ends a text.
        (Some('\u{1b}'), Some(']' | 'P' | '_' | '^' | 'X')) => {
            let end = rest.find(|c: char| ends(c) || c == '\u{1b}' || c == '\n');
            match end {
                Some(end) if rest[end..].starts_with(ends) => skip_one(&rest[end..]),
                Some(end) => rest[end..].strip_prefix("\u{1b}\\").unwrap_or(&rest[end..]),
                None => "",
            }
        }
        (Some('\u{1b}'), Some(c)) if !c.is_control() => skip_one(rest),
        _ => rest,
    }
}

fn skip_one(text: &str) -> &str {
    let mut letters = text.chars();
    // A line's end is never part of a command.
    match letters.next() {
        Some('\n') | None => text,
        Some(_) => letters.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_stay_and_commands_go() {
        for (text, shown) in [
            ("plain\ttext\n", "plain\ttext\n"),
            ("\u{1b}[1;31mred\u{1b}[0m", "\u{1b}[1;31mred\u{1b}[0m"),
            ("\u{1b}[8mhidden\u{1b}[0m", "hidden\u{1b}[0m"),
            ("a\u{1b}[2J\u{1b}[1;1Hb", "ab"),
            ("a\rb\u{8}\u{7}\r\n", "a b\n"),
            ("\u{1b}]0;title\u{7}x", "x"),
            ("\u{1b}]52;c;ZWNobw==\u{1b}\\x", "x"),
            (
                "\u{1b}]8;;http://evil\u{1b}\\link\u{1b}]8;;\u{1b}\\",
                "link",
            ),
            ("\u{1b}Pq#0\u{9c}x", "x"),
            ("\u{9b}2Jx", "2Jx"),
            ("a\u{202e}b", "ab"),
            ("\u{1b}]0;open\nnext", "\nnext"),
            ("\u{1b}[31", ""),
            ("\u{1b}", ""),
            ("\u{1b}cx", "x"),
        ] {
            assert_eq!(tame(text), shown, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_but_colours_is_left(text in "[a\u{1b}\\[\\]0-9;mJ\u{7}\u{9c}P\\\\\n]{0,40}") {
            let shown = tame(&text);
            let bare = shown.split('\u{1b}').skip(1);
            for piece in bare {
                let end = piece.find('m').expect("a colour");
                let digits = piece[1..end].bytes();
                proptest::prop_assert!(piece.starts_with('['));
                proptest::prop_assert!(digits.into_iter().all(|b| b.is_ascii_digit() || b == b';'));
            }
            proptest::prop_assert_eq!(tame(&shown), shown);
        }
    }
}

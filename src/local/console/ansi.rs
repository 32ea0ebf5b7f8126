//! Terminal output as pieces of text with classes; everything else that controls a terminal goes.
//!
//! Only the sixteen colours and the plain attributes are kept: they are what logs use, and the
//! page has its own shades for them that can be read in the dark and in the light.

/// Text that is shown in one way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Piece {
    pub text: String,
    /// Names of classes, separated by spaces.
    pub class: String,
}

#[derive(Clone, Copy, Default, PartialEq)]
struct Style {
    colour: Option<u8>,
    /// Those of [`ATTRIBUTES`] that are on.
    attributes: [bool; 4],
}

/// Bold, dim, italic and underlined: the class, what turns it on, what turns it off.
const ATTRIBUTES: [(&str, u16, u16); 4] =
    [("cb", 1, 22), ("cd", 2, 22), ("ci", 3, 23), ("cu", 4, 24)];

/// The pieces of one line.
pub fn pieces(line: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut style = Style::default();
    let mut text = String::new();
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c != '\u{1b}' {
            // A tab is text; what moves a cursor or rings a bell is not. Nor is what changes the
            // direction of text, which makes a line read as another one.
            if (c == '\t' || !c.is_control()) && !is_bidirectional(c) {
                text.push(c);
            }
            continue;
        }
        let before = style;
        skip_or_apply(&mut rest, &mut style);
        if style != before && !text.is_empty() {
            pieces.push(piece(std::mem::take(&mut text), before));
        }
    }
    if !text.is_empty() {
        pieces.push(piece(text, style));
    }
    pieces
}

/// The same without anything but text.
pub fn plain(line: &str) -> String {
    pieces(line).into_iter().map(|piece| piece.text).collect()
}

fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Reads one escape sequence behind its first character.
fn skip_or_apply(rest: &mut std::str::Chars<'_>, style: &mut Style) {
    let start = rest.clone();
    match rest.next() {
        Some('[') => {
            let mut parameters = String::new();
            for c in rest.by_ref() {
                match c {
                    '0'..='?' if parameters.len() < 64 => parameters.push(c),
                    ' '..='/' | '0'..='?' => {}
                    'm' => return apply(&parameters, style),
                    // Any other sequence is over here.
                    _ => return,
                }
            }
        }
        // A title or a hyperlink, up to a bell or `ESC \`.
        Some(']' | 'P' | '_' | '^' | 'X') => {
            let mut escaped = false;
            for c in rest.by_ref() {
                if c == '\u{7}' || (escaped && c == '\\') {
                    return;
                }
                escaped = c == '\u{1b}';
            }
        }
        Some('(' | ')' | '#' | '%') => {
            rest.next();
        }
        Some('\u{1b}') => *rest = start,
        Some(_) | None => {}
    }
}

fn apply(parameters: &str, style: &mut Style) {
    let mut numbers = parameters
        .split([';', ':'])
        .map(|number| number.parse::<u16>().unwrap_or(0));
    while let Some(number) = numbers.next() {
        match number {
            0 => *style = Style::default(),
            1..=4 | 22..=24 => {
                for (is_on, (_, on, off)) in style.attributes.iter_mut().zip(ATTRIBUTES) {
                    *is_on = number == on || (*is_on && number != off);
                }
            }
            30..=37 => style.colour = u8::try_from(number - 30).ok(),
            90..=97 => style.colour = u8::try_from(number - 90 + 8).ok(),
            39 => style.colour = None,
            38 | 48 => {
                let colour = indexed(&mut numbers);
                if number == 38 {
                    style.colour = colour;
                }
            }
            // Backgrounds would fight with the page's own.
            _ => {}
        }
    }
}

/// The colour of `38;5;N`, where it is one of the sixteen; `38;2;R;G;B` is only read over.
fn indexed(numbers: &mut impl Iterator<Item = u16>) -> Option<u8> {
    match numbers.next() {
        Some(5) => numbers
            .next()
            .and_then(|number| u8::try_from(number).ok())
            .filter(|number| *number < 16),
        Some(2) => {
            let _ = numbers.nth(2);
            None
        }
        Some(_) | None => None,
    }
}

fn piece(text: String, style: Style) -> Piece {
    let mut classes = Vec::new();
    if let Some(colour) = style.colour {
        classes.push(format!("c{colour}"));
    }
    for (is_on, (class, _, _)) in style.attributes.into_iter().zip(ATTRIBUTES) {
        if is_on {
            classes.push(class.to_owned());
        }
    }
    Piece {
        text,
        class: classes.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(line: &str) -> Vec<(String, String)> {
        let pieces = pieces(line).into_iter();
        pieces.map(|piece| (piece.text, piece.class)).collect()
    }

    #[test]
    fn colours_become_classes() {
        let line = "a\u{1b}[1;31mred\u{1b}[0m b\u{1b}[38;5;10mgreen\u{1b}[39m\u{1b}[38;2;1;2;3mx";
        let expected = [
            ("a", ""),
            ("red", "c1 cb"),
            (" b", ""),
            ("green", "c10"),
            ("x", ""),
        ];
        assert_eq!(
            shown(line),
            expected.map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }

    #[test]
    fn other_sequences_vanish() {
        for line in [
            "a\u{1b}[2Jb",
            "a\u{1b}]0;title\u{7}b",
            "a\u{1b}]8;;http://x\u{1b}\\b",
            "a\u{1b}(Bb",
            "a\u{1b}\u{1b}[0Kb",
            "a\u{8}\u{0}b",
            "a\u{202e}b",
        ] {
            assert_eq!(plain(line), "ab", "{line:?}");
        }
        assert_eq!(plain("a\tb"), "a\tb");
        assert_eq!(plain("a\u{1b}[31"), "a");
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(line in "(\\PC|\u{1b}|\u{1b}\\[|;|[0-9]|m|\u{7}){0,60}") {
            for piece in pieces(&line) {
                prop_assert!(!piece.text.chars().any(|c| c.is_control() && c != '\t'));
                prop_assert!(piece.class.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' '));
            }
        }
    }
}

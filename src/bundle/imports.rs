//! Reads the import statements of a Python file without running it.
//!
//! A tolerant scanner, not a parser: strings and comments are passed over, statements are found
//! anywhere (in functions, under `TYPE_CHECKING`, behind `try:`), and a file that is no valid Python
//! yields what can be recognized. Computed imports are not seen. What a name resolves to is not
//! known here.

use unicode_normalization::UnicodeNormalization;

/// One imported module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Leading dots: 0 for an absolute import, 1 for "this package".
    pub level: usize,
    /// The dotted path, empty for `from . import x`.
    pub module: Vec<String>,
    /// What follows `import` in the `from` form: submodules or attributes.
    pub names: Vec<String>,
    /// Where the statement begins, counted from 1.
    pub line: usize,
}

/// All imports of a source text, in order of appearance.
pub fn scan(source: &[u8]) -> Vec<Import> {
    let tokens = Lexer::new(source).tokens();
    let mut imports = Vec::new();
    let mut rest = tokens.as_slice();
    let mut at_start = true;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first.token {
            Token::Name("import") if at_start => {
                plain_imports(&mut rest, first.line, &mut imports);
            }
            Token::Name("from") if at_start => from_import(&mut rest, first.line, &mut imports),
            Token::Name(_) | Token::Mark(_) | Token::Start => {}
        }
        at_start = first.token == Token::Start;
    }
    imports
}

/// `import a.b as c, d`
fn plain_imports(rest: &mut &[Placed], line: usize, imports: &mut Vec<Import>) {
    loop {
        let module = dotted(rest);
        if module.is_empty() {
            return;
        }
        imports.push(Import {
            level: 0,
            module,
            names: Vec::new(),
            line,
        });
        skip_alias(rest);
        if !take(rest, Token::Mark(b',')) {
            return;
        }
    }
}

/// `from ..a.b import (c as d, e)`
fn from_import(rest: &mut &[Placed], line: usize, imports: &mut Vec<Import>) {
    let mut level = 0;
    while take(rest, Token::Mark(b'.')) {
        level += 1;
    }
    let module = match rest.first().map(|first| first.token) {
        Some(Token::Name("import")) => Vec::new(),
        Some(Token::Name(_) | Token::Mark(_) | Token::Start) | None => dotted(rest),
    };
    if !take(rest, Token::Name("import")) || (level == 0 && module.is_empty()) {
        return;
    }
    take(rest, Token::Mark(b'('));
    let mut names = Vec::new();
    while let Some(name) = take_name(rest) {
        names.push(name);
        skip_alias(rest);
        if !take(rest, Token::Mark(b',')) {
            break;
        }
    }
    imports.push(Import {
        level,
        module,
        names,
        line,
    });
}

fn dotted(rest: &mut &[Placed]) -> Vec<String> {
    let mut parts = Vec::new();
    while let Some(part) = take_name(rest) {
        parts.push(part);
        if !take(rest, Token::Mark(b'.')) {
            break;
        }
    }
    parts
}

fn skip_alias(rest: &mut &[Placed]) {
    if take(rest, Token::Name("as")) {
        take_name(rest);
    }
}

fn take(rest: &mut &[Placed], expected: Token) -> bool {
    match rest.split_first() {
        Some((first, after)) if first.token == expected => {
            *rest = after;
            true
        }
        _ => false,
    }
}

fn take_name(rest: &mut &[Placed]) -> Option<String> {
    let (first, after) = rest.split_first()?;
    let Token::Name(name) = first.token else {
        return None;
    };
    *rest = after;
    Some(normal(name))
}

/// An identifier in the form in which Python compares it, and looks for its file.
fn normal(name: &str) -> String {
    let normal: String = name.nfkc().collect();
    // Some signs turn into dots and slashes; no identifier holds those.
    if normal.bytes().all(is_name) {
        normal
    } else {
        name.to_owned()
    }
}

/// A token and the line that it stands on.
struct Placed<'a> {
    token: Token<'a>,
    line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// An identifier, keyword or number.
    Name(&'a str),
    /// Any other character, or a whole string literal as `"`.
    Mark(u8),
    /// A statement may begin here: after a line, `;` or `:` outside brackets.
    Start,
}

struct Lexer<'a> {
    source: &'a [u8],
    at: usize,
    open_brackets: usize,
    /// The line that `counted` is on.
    line: usize,
    counted: usize,
}

impl<'a> Lexer<'a> {
    fn new(source: &'a [u8]) -> Self {
        let source = source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source);
        Self {
            source,
            at: 0,
            open_brackets: 0,
            line: 1,
            counted: 0,
        }
    }

    fn tokens(mut self) -> Vec<Placed<'a>> {
        let start = Token::Start;
        let mut tokens = vec![Placed {
            token: start,
            line: 1,
        }];
        while let Some(&byte) = self.source.get(self.at) {
            let begin = self.at;
            let token = match byte {
                b'#' => self.skip_comment(),
                b'"' | b'\'' => Some(self.string(byte)),
                b'\\' => self.skip_joined_line(),
                b' ' | b'\t' | b'\x0c' | b'\r' => self.skip(1),
                _ if is_name(byte) => self.name(),
                b'\n' if self.open_brackets > 0 => self.skip(1),
                _ => Some(self.mark(byte)),
            };
            if let Some(token) = token {
                let line = self.line_of(begin);
                tokens.push(Placed { token, line });
            }
        }
        tokens
    }

    /// The line of a place that is not before the last one asked for.
    fn line_of(&mut self, place: usize) -> usize {
        let between = &self.source[self.counted..place];
        self.line += between.split(|&byte| byte == b'\n').skip(1).count();
        self.counted = place;
        self.line
    }

    fn skip(&mut self, bytes: usize) -> Option<Token<'a>> {
        self.at += bytes;
        None
    }

    fn skip_comment(&mut self) -> Option<Token<'a>> {
        self.at = self.find(self.at, b'\n');
        None
    }

    /// Where `byte` stands next, or the end.
    fn find(&self, from: usize, byte: u8) -> usize {
        self.source[from..]
            .iter()
            .position(|&b| b == byte)
            .map_or(self.source.len(), |offset| from + offset)
    }

    /// A backslash and the line end behind it.
    fn skip_joined_line(&mut self) -> Option<Token<'a>> {
        self.skip(match &self.source[self.at + 1..] {
            [b'\r', b'\n', ..] => 3,
            [b'\n', ..] => 2,
            _ => 1,
        })
    }

    fn string(&mut self, quote: u8) -> Token<'a> {
        self.skip_string(quote);
        Token::Mark(b'"')
    }

    fn skip_string(&mut self, quote: u8) {
        let triple = self.source[self.at..].starts_with(&[quote; 3]);
        let width = if triple { 3 } else { 1 };
        self.at += width;
        while let Some(&byte) = self.source.get(self.at) {
            if byte == b'\\' {
                self.at += 2;
            } else if byte == quote && (!triple || self.source[self.at..].starts_with(&[quote; 3]))
            {
                self.at += width;
                return;
            } else if byte == b'\n' && !triple {
                return; // not closed: the rest of the file is worth more than this line
            } else {
                self.at += 1;
            }
        }
    }

    fn name(&mut self) -> Option<Token<'a>> {
        let start = self.at;
        while self.source.get(self.at).is_some_and(|&b| is_name(b)) {
            self.at += 1;
        }
        std::str::from_utf8(&self.source[start..self.at])
            .ok()
            .map(Token::Name)
    }

    fn mark(&mut self, byte: u8) -> Token<'a> {
        self.at += 1;
        match byte {
            b'(' | b'[' | b'{' => self.open_brackets += 1,
            b')' | b']' | b'}' => self.open_brackets = self.open_brackets.saturating_sub(1),
            _ => {}
        }
        match byte {
            b'\n' | b';' | b':' if self.open_brackets == 0 => Token::Start,
            _ => Token::Mark(byte),
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Imports in short: `..a.b(c, d)`.
    fn short(source: &str) -> Vec<String> {
        scan(source.as_bytes())
            .iter()
            .map(|import| {
                let dots = ".".repeat(import.level);
                format!(
                    "{dots}{}({})",
                    import.module.join("."),
                    import.names.join(",")
                )
            })
            .collect()
    }

    #[test]
    fn plain_and_from_forms() {
        assert_eq!(
            short(
                "import a.b as c, d\nfrom .e import f as g, h\nfrom .. import i\nfrom j import *"
            ),
            ["a.b()", "d()", ".e(f,h)", "..(i)", "j()"]
        );
    }

    #[test]
    fn statements_over_several_lines() {
        assert_eq!(
            short(
                "from a import (  # why\n    b,\n    c as d,\n)\nimport \\\n    e\r\nfrom f \\\r\n  import g\n"
            ),
            ["a(b,c)", "e()", "f(g)"]
        );
    }

    #[test]
    fn statements_inside_others() {
        let source = "if TYPE_CHECKING:\n    import a\ndef f():\n\tfrom b import c\n\
                      try: import d\nexcept E: pass; import e\nx = {1: 2}\nclass A: from f import g\n";
        assert_eq!(short(source), ["a()", "b(c)", "d()", "e()", "f(g)"]);
    }

    #[test]
    fn lines_are_those_where_statements_begin() {
        let source = "\"\"\"a\nb\"\"\"\nimport a, \\\n  b\n\nif x: from c import (\n  d)\nimport e";
        let lines: Vec<usize> = scan(source.as_bytes())
            .iter()
            .map(|import| import.line)
            .collect();
        assert_eq!(lines, [3, 3, 6, 8]);
    }

    #[test]
    fn what_only_looks_like_an_import() {
        let source = "# import a\n'import b'\n\"\"\"\nimport c\n\"\\\"\"\"\"\nraise E from d\n\
                      yield from e\nimportant = 1\nx.import_(f)\nr'\\'; import g'\nf(\nimport_h)\n";
        assert_eq!(short(source), Vec::<String>::new());
    }

    #[test]
    fn broken_sources_yield_what_can_be_recognized() {
        assert_eq!(short("s = 'not closed\nimport a\n"), ["a()"]);
        assert_eq!(short("\u{feff}import größe\n"), ["größe()"]);
        assert_eq!(
            short("import gro\u{308}ße, \u{fb01}x\n"),
            ["größe()", "fix()"]
        );
        assert_eq!(
            short("from import x\nfrom\nimport\nimport ,\n"),
            Vec::<String>::new()
        );
        assert_eq!(scan(b"\xff\xfe\nimport a"), scan(b"\nimport a"));
        assert!(scan(b"'\\").is_empty() && scan(b"\"\"\"\\").is_empty());
    }
}

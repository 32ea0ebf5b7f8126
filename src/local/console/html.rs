//! Markup that what it shows cannot break.
//!
//! [`html!`] takes a literal with `{}` where values go, checked by the compiler. Text is escaped
//! on its way in, whatever it is; only [`Html`] goes in as it is, and only literals and `html!`
//! make that. Values fit between tags and into quoted attributes, nowhere else.

use std::fmt::{self, Write};

/// Finished markup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Html(String);

impl Html {
    /// Use [`html!`].
    pub fn of(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text.write_fmt(arguments);
        Self(text)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

impl std::ops::AddAssign for Html {
    fn add_assign(&mut self, more: Self) {
        if self.0.is_empty() {
            self.0 = more.0;
        } else {
            self.0.push_str(&more.0);
        }
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<I: IntoIterator<Item = Html>>(parts: I) -> Self {
        let mut whole = Self::default();
        for part in parts {
            whole += part;
        }
        whole
    }
}

/// What can stand in markup.
pub trait Render {
    fn render(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result;
}

impl Render for Html {
    fn render(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Render for str {
    fn render(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            out.write_str(&rest[..at])?;
            out.write_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[at + 1..];
        }
        out.write_str(rest)
    }
}

impl Render for String {
    fn render(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().render(out)
    }
}

impl Render for std::borrow::Cow<'_, str> {
    fn render(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().render(out)
    }
}

impl<T: Render + ?Sized> Render for &T {
    fn render(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        (*self).render(out)
    }
}

/// Nothing where there is nothing.
impl<T: Render> Render for Option<T> {
    fn render(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().map_or(Ok(()), |value| value.render(out))
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Render for $number {
            fn render(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        })*
    };
}

numbers!(i32 u32 u64 usize);

/// Lends a value to `format_args!`.
pub struct Shown<'a, T: ?Sized>(pub &'a T);

impl<T: Render + ?Sized> fmt::Display for Shown<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.render(out)
    }
}

/// Whether a template names nothing: what `{name}` captures would go in unescaped.
pub const fn has_plain_places(template: &str) -> bool {
    let bytes = template.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'{' {
            if at + 1 >= bytes.len() || bytes[at + 1] != b'}' {
                return false;
            }
            at += 1;
        }
        at += 1;
    }
    true
}

/// Markup from a template with `{}` for each value.
macro_rules! html {
    (include $file:literal $(, $value:expr)* $(,)?) => {{
        const _: () = assert!($crate::local::console::html::has_plain_places(include_str!($file)));
        $crate::local::console::html::Html::of(format_args!(
            include_str!($file) $(, $crate::local::console::html::Shown(&$value))*
        ))
    }};
    ($template:literal $(, $value:expr)* $(,)?) => {{
        const _: () = assert!($crate::local::console::html::has_plain_places($template));
        $crate::local::console::html::Html::of(format_args!(
            $template $(, $crate::local::console::html::Shown(&$value))*
        ))
    }};
}

pub(super) use html;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_never_becomes_markup() {
        let hostile = "\"><script>alert('1')</script>&amp;";
        let shown = html!("<a title=\"{}\">{}</a>", hostile, 7_u64).into_string();
        assert_eq!(
            shown,
            "<a title=\"&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;amp;\">7</a>"
        );
    }

    #[test]
    fn markup_goes_in_as_it_is() {
        let inner: Html = ["a", "<"]
            .iter()
            .map(|text| html!("<b>{}</b>", text))
            .collect();
        let outer = html!("<p>{}{}</p>", inner, None::<&str>);
        assert_eq!(outer.into_string(), "<p><b>a</b><b>&lt;</b></p>");
    }

    #[test]
    fn templates_that_capture_are_told() {
        assert!(has_plain_places("<p>{}</p>"));
        assert!(!has_plain_places("<p>{name}</p>"));
        assert!(!has_plain_places("{"));
    }
}

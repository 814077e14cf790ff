//! For tests of pictures: the texts of an SVG, and whether they lie inside.

/// A text of a picture.
#[derive(Debug)]
pub(crate) struct SvgText {
    pub(crate) content: String,
    /// Left and right end, estimated: letters are 0.6 of a font's size wide.
    pub(crate) x: [f64; 2],
    /// Upper and lower end.
    pub(crate) y: [f64; 2],
}

/// The number or word that an element's attribute has.
fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = element.split_once(&format!(" {name}=\""))?;
    Some(value.split_once('"')?.0)
}

fn number(element: &str, name: &str) -> f64 {
    attribute(element, name).and_then(|x| x.parse().ok()).unwrap_or_else(|| panic!("{name} of <{element}"))
}

/// The texts.
pub(crate) fn texts(svg: &str) -> Vec<SvgText> {
    let one = |part: &str| {
        let (element, content) = part.split_once('>').unwrap();
        let content = content.split("</text>").next().unwrap().trim();
        let content =
            content.replace("&lt;", "<").replace("&gt;", ">").replace("&apos;", "'").replace("&amp;", "&");
        let size = number(element, "font-size");
        let width = 0.6 * size * content.chars().count() as f64;
        let before = match attribute(element, "text-anchor") {
            Some("middle") => 0.5,
            Some("end") => 1.0,
            _ => 0.0,
        };
        let (x, y) = (number(element, "x"), number(element, "y"));
        let along = |at: f64| [at - before * width, at + (1.0 - before) * width];
        // Where a line of text stands around its place, as plotters writes it: below or in the middle.
        let across = |at: f64| match attribute(element, "dy") {
            Some("0.76em") => [at, at + size],
            Some("0.5ex") => [at - size / 2.0, at + size / 2.0],
            _ => [at - size, at + size],
        };
        match attribute(element, "transform") {
            None => SvgText { content, x: along(x), y: across(y) },
            // Upwards, around its own place. All such texts of these pictures stand in the middle of their place.
            Some(turned) => {
                assert!(turned.starts_with("rotate(270,") && before == 0.5, "{element}");
                SvgText { content, x: [x - size, x + size], y: along(y) }
            }
        }
    };
    svg.split("<text").skip(1).map(one).collect()
}

/// Every text lies inside the picture.
#[track_caller]
pub(crate) fn assert_inside(svg: &str) {
    let head = svg.split('>').next().unwrap();
    let (width, height) = (number(head, "width"), number(head, "height"));
    let texts = texts(svg);
    assert!(!texts.is_empty());
    for text in texts {
        let inside = text.x[0] >= 0.0 && text.x[1] <= width && text.y[0] >= 0.0 && text.y[1] <= height;
        assert!(inside, "{text:?} does not lie in {width} x {height}");
    }
}

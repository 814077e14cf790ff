//! Memory by layer and KV head as a picture: a panel a cache, one scale for all, so that they can be compared.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::failure::{Failure, at_path};

/// What is drawn.
pub(crate) struct HeatMap {
    /// Above everything.
    pub(crate) title: String,
    /// Names of the layers, from the first one down.
    pub(crate) layers: Vec<String>,
    /// KV heads of a layer.
    pub(crate) kv_heads: usize,
    /// The caches.
    pub(crate) panels: Vec<Panel>,
}

/// One cache.
pub(crate) struct Panel {
    /// Its name.
    pub(crate) name: String,
    /// How many times fewer bytes than FP16 it has.
    pub(crate) smaller: f64,
    /// Bytes of each head as a part of FP16's: `[layers, kv_heads]`.
    pub(crate) parts: Vec<f64>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// What the colours mean.
const UNIT: &str = "bytes of a KV head, in % of FP16:";
/// Title and scale.
const HEADER: i32 = 104;
/// Width and height of the scale's bar, and its upper edge.
const BAR: (i32, i32, i32) = (300, 14, 48);
/// Room at the edges.
const EDGE: i32 = 20;
/// Room beside a panel's cells: left, top, right and bottom.
const MARGIN: [i32; 4] = [62, 62, 18, 18];
/// Sizes of text: title, name of a panel, everything else.
const SIZES: [i32; 3] = [18, 14, 12];

/// Pixels that a text takes at a size of plotters, about: sans-serif letters are 0.6 of a font's size wide.
pub(crate) fn text_width(text: &str, size: i32) -> i32 {
    // Sizes of plotters are 1.24 times those of a font.
    (0.6 / 1.24 * f64::from(size) * text.chars().count() as f64).ceil() as i32
}

/// Draws an SVG file.
pub(crate) fn draw(map: &HeatMap, path: &Path) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(at_path(folder))?;
    }
    let layout = Layout::of(map);
    let drawn = map.paint(&layout, &SVGBackend::new(path, layout.size).into_drawing_area());
    drawn.map_err(|error| Failure::machine(format_args!("{}: {error}", path.display())))
}

/// Where things stand.
struct Layout {
    size: (u32, u32),
    cell: (i32, i32),
    panel: (i32, i32),
    columns: usize,
    /// The left edge of the panels.
    left: i32,
}

impl Layout {
    fn of(map: &HeatMap) -> Layout {
        // Few layers have room for numbers.
        let few = map.layers.len() <= 8;
        let (cell, columns) = if few { ((86, 40), 3) } else { ((34, 12), 6) };
        let [left, top, right, bottom] = MARGIN;
        let names = map.panels.iter().map(|panel| text_width(&panel.name, SIZES[1]));
        let least = names.max().unwrap_or(0) + EDGE;
        let panel = (
            (left + map.kv_heads as i32 * cell.0 + right).max(least),
            top + map.layers.len() as i32 * cell.1 + bottom,
        );
        let columns = columns.min(map.panels.len()).max(1);
        let panels = panel.0 * columns as i32;
        let scale = text_width(UNIT, SIZES[2]) + BAR.0;
        let width = panels.max(text_width(&map.title, SIZES[0])).max(scale + 2 * EDGE) + 2 * EDGE;
        let height = HEADER + panel.1 * map.panels.len().div_ceil(columns) as i32;
        Layout { size: (width as u32, height as u32), cell, panel, columns, left: (width - panels) / 2 }
    }
}

/// The numbers beside the scale: from 0 in equal steps to the first that no part exceeds.
fn ticks(most: f64) -> Vec<f64> {
    let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
    let power = 10f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| step * 5.0 >= most);
    let step = step.unwrap_or(most);
    // A part that is a tick up to rounding needs no further one.
    let steps = (most / step - 1e-9).ceil().max(1.0) as usize;
    (0..=steps).map(|at| at as f64 * step).collect()
}

/// In per cent, as short as it goes.
fn percent(part: f64) -> String {
    let text = format!("{:.4}", 100.0 * part);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

impl HeatMap {
    fn paint(&self, layout: &Layout, area: &Area<'_>) -> Drawn {
        area.fill(&WHITE)?;
        let text = |size: i32, at: HPos| {
            ("sans-serif", size).into_font().color(&BLACK).pos(Pos::new(at, VPos::Center))
        };
        let [title, name, small] = SIZES;
        let middle = layout.size.0 as i32 / 2;
        area.draw(&Text::new(self.title.clone(), (middle, 22), text(title, HPos::Center)))?;

        let ticks = ticks(self.panels.iter().flat_map(|panel| &panel.parts).copied().fold(0.0, f64::max));
        let most = ticks.last().copied().unwrap_or(1.0);
        let shade = |part: f64| ViridisRGB.get_color(1.0 - part / most);
        let unit = text_width(UNIT, small);
        let (bar, height, top) = BAR;
        let left = (layout.size.0 as i32 - unit - bar - EDGE) / 2 + unit + EDGE;
        area.draw(&Text::new(UNIT, (left - EDGE, top + height / 2), text(small, HPos::Right)))?;
        const STRIPE: i32 = 3;
        for x in (0..bar).step_by(STRIPE as usize) {
            let colour = shade(most * (f64::from(x) + 0.5 * f64::from(STRIPE)) / f64::from(bar));
            let corners = [(left + x, top), (left + x + STRIPE, top + height)];
            area.draw(&Rectangle::new(corners, colour.filled()))?;
        }
        for tick in &ticks {
            let x = left + (f64::from(bar) * tick / most).round() as i32;
            let below = top + height;
            area.draw(&PathElement::new([(x, below), (x, below + 4)], BLACK))?;
            area.draw(&Text::new(percent(*tick), (x, below + 13), text(small, HPos::Center)))?;
        }

        for (at, panel) in self.panels.iter().enumerate() {
            let (column, row) = ((at % layout.columns) as i32, (at / layout.columns) as i32);
            let cells = self.kv_heads as i32 * layout.cell.0;
            let spare = layout.panel.0 - MARGIN[0] - cells - MARGIN[2];
            let x = layout.left + column * layout.panel.0 + spare / 2 + MARGIN[0];
            let y = HEADER + row * layout.panel.1 + MARGIN[1];
            let centre = layout.left + column * layout.panel.0 + layout.panel.0 / 2;
            area.draw(&Text::new(panel.name.clone(), (centre, y - 50), text(name, HPos::Center)))?;
            let smaller = format!("{:.1}x smaller", panel.smaller);
            area.draw(&Text::new(smaller, (centre, y - 32), text(small, HPos::Center)))?;
            self.cells(panel, (x, y), layout.cell, &shade, most, area)?;
        }
        Ok(area.present()?)
    }

    /// The cells of a panel with the names of layers and heads.
    fn cells(
        &self,
        panel: &Panel,
        (x, y): (i32, i32),
        cell: (i32, i32),
        shade: &dyn Fn(f64) -> RGBColor,
        most: f64,
        area: &Area<'_>,
    ) -> Drawn {
        let small = |colour: &RGBColor, at: HPos| {
            ("sans-serif", SIZES[2]).into_font().color(colour).pos(Pos::new(at, VPos::Center))
        };
        let numbers = cell.1 > SIZES[2];
        // Small cells have no room for every name.
        let every = if numbers { 1 } else { 4 };
        for head in 0..self.kv_heads {
            let name = if numbers { format!("head {head}") } else { head.to_string() };
            let centre = x + head as i32 * cell.0 + cell.0 / 2;
            area.draw(&Text::new(name, (centre, y - 12), small(&BLACK, HPos::Center)))?;
        }
        for (layer, parts) in panel.parts.chunks(self.kv_heads.max(1)).enumerate() {
            let y = y + layer as i32 * cell.1;
            let middle = y + cell.1 / 2;
            if let Some(name) = self.layers.get(layer).filter(|_| layer % every == 0) {
                area.draw(&Text::new(name.clone(), (x - 8, middle), small(&BLACK, HPos::Right)))?;
            }
            for (head, &part) in parts.iter().enumerate() {
                let x = x + head as i32 * cell.0;
                let corners = [(x, y), (x + cell.0 - 1, y + cell.1 - 1)];
                area.draw(&Rectangle::new(corners, shade(part).filled()))?;
                if numbers {
                    let ink = if part > 0.5 * most { WHITE } else { BLACK };
                    let text = format!("{:.1} %", 100.0 * part);
                    area.draw(&Text::new(text, (x + cell.0 / 2, middle), small(&ink, HPos::Center)))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use plotters::prelude::*;

    use super::{HeatMap, Layout, Panel, UNIT, ticks};
    use crate::svg::{assert_inside, texts};

    fn drawn(map: &HeatMap) -> String {
        let layout = Layout::of(map);
        let mut svg = String::new();
        map.paint(&layout, &SVGBackend::with_string(&mut svg, layout.size).into_drawing_area()).unwrap();
        svg
    }

    fn map(title: &str, layers: usize, kv_heads: usize, names: &[&str]) -> HeatMap {
        let cells = layers * kv_heads;
        let parts: Vec<f64> = (1..=cells).map(|at| 0.43 * at as f64 / cells as f64).collect();
        let panel = |name: &&str| Panel { name: (*name).to_owned(), smaller: 5.2, parts: parts.clone() };
        HeatMap {
            title: title.to_owned(),
            layers: (0..layers).map(|layer| format!("layer {layer}")).collect(),
            kv_heads,
            panels: names.iter().map(panel).collect(),
        }
    }

    #[test]
    fn every_text_lies_inside_and_the_scale_has_numbers_and_a_unit() {
        let long = "a-model-with-a-long-name.Q4_K_M (98362432 bytes, quantised weights): memory by layer (down) and KV head (across)";
        let names = ["K8V4/K4V2+offset+hadamard@1/11:heavy-hitter", "K8V4"];
        for map in [
            map(long, 30, 3, &["K8V4@1/5"]),
            map(long, 1, 1, &names),
            map("Memory", 3, 3, &["a", "b", "c", "d"]),
            map("Memory", 28, 16, &names.repeat(4)),
        ] {
            let svg = drawn(&map);
            assert_inside(&svg);
            let shown: Vec<String> = texts(&svg).into_iter().map(|text| text.content).collect();
            let scale = [UNIT, "0 %", "10 %", "20 %", "30 %", "40 %", "50 %"];
            for part in [map.title.as_str(), "5.2x smaller"].iter().chain(&scale) {
                assert!(shown.iter().any(|text| text == part), "`{part}` is missing in {shown:?}");
            }
            for panel in &map.panels {
                assert!(shown.contains(&panel.name), "{shown:?}");
            }
        }
    }

    #[test]
    fn the_scale_ends_at_the_first_round_number_that_no_part_exceeds() {
        for (most, last, count) in
            [(0.43, 0.5, 6), (0.5, 0.5, 6), (0.31, 0.4, 5), (1.07, 1.5, 4), (0.003, 0.003, 4), (0.0, 1.0, 6)]
        {
            let ticks = ticks(most);
            let end = ticks.last().copied().unwrap();
            assert!((end - last).abs() < 1e-9 && ticks.len() == count, "{most}: {ticks:?}");
            assert_eq!(ticks[0], 0.0);
        }
    }

    #[test]
    fn cells_have_the_colours_of_the_scale() {
        let svg = drawn(&map("Memory", 2, 2, &["a"]));
        let colour = |part: f64| {
            let RGBColor(r, g, b) = ViridisRGB.get_color(1.0 - part / 0.5);
            format!("#{r:02X}{g:02X}{b:02X}")
        };
        for part in [0.43, 0.43 / 4.0] {
            assert!(svg.contains(&colour(part)), "{part}: {} is missing", colour(part));
        }
    }
}

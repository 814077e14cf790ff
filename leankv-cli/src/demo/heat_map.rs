//! Memory by layer and KV head as a picture.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::stream::Streamed;
use crate::failure::{Failure, at_path};

const CELL: (i32, i32) = (86, 40);
const COLUMNS: usize = 3;
/// Room of a panel beside its cells: left, top, right and bottom.
const MARGIN: [i32; 4] = [64, 58, 18, 14];

/// Draws one panel a way: rows are layers, columns KV heads, colour and number are bytes in per cent of FP16.
pub(super) fn draw(streamed: &Streamed, path: &Path) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(at_path(folder))?;
    }
    let (rows, heads) = (streamed.layers.len() as i32, streamed.kv_heads as i32);
    let [left, top, right, bottom] = MARGIN;
    let panel = (left + heads * CELL.0 + right, top + rows * CELL.1 + bottom);
    let lines = streamed.ways.len().div_ceil(COLUMNS) as i32;
    let title = 44;
    let size = ((panel.0 * COLUMNS as i32) as u32, (panel.1 * lines + title) as u32);
    let drawn = paint(streamed, &SVGBackend::new(path, size).into_drawing_area(), panel, title);
    drawn.map_err(|error| Failure::machine(format_args!("{}: {error}", path.display())))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn paint(streamed: &Streamed, area: &Area<'_>, panel: (i32, i32), title: i32) -> Drawn {
    let [left, top, ..] = MARGIN;
    area.fill(&WHITE)?;
    let middle = Pos::new(HPos::Center, VPos::Center);
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    let wide = (panel.0 * COLUMNS as i32) / 2;
    let heading = "Memory by layer and KV head: bytes of pages, in per cent of FP16";
    area.draw(&Text::new(heading, (wide, title / 2), text(18).pos(middle)))?;
    // One scale for all panels, so that they can be compared.
    let shares =
        streamed.ways.iter().flat_map(|way| way.stats.heads.iter().map(|head| streamed.share(way, head)));
    let most = shares.fold(f64::MIN_POSITIVE, f64::max);
    for (at, way) in streamed.ways.iter().enumerate() {
        let x = panel.0 * (at % COLUMNS) as i32 + left;
        let y = panel.1 * (at / COLUMNS) as i32 + title + top;
        let name = format!("{}: {:.1}x smaller", way.name, way.stats.compression());
        let centre = x + streamed.kv_heads as i32 * CELL.0 / 2;
        area.draw(&Text::new(name, (centre, y - 38), text(15).pos(middle)))?;
        for head in 0..streamed.kv_heads as i32 {
            let label = format!("head {head}");
            area.draw(&Text::new(label, (x + head * CELL.0 + CELL.0 / 2, y - 14), text(12).pos(middle)))?;
        }
        for (row, heads) in way.stats.heads.chunks(streamed.kv_heads).enumerate() {
            let y = y + row as i32 * CELL.1;
            let label = format!("layer {}", streamed.layers[row]);
            area.draw(&Text::new(label, (x - left / 2, y + CELL.1 / 2), text(12).pos(middle)))?;
            for (column, head) in heads.iter().enumerate() {
                let x = x + column as i32 * CELL.0;
                let share = streamed.share(way, head);
                let colour = ViridisRGB.get_color(1.0 - share / most);
                area.draw(&Rectangle::new([(x, y), (x + CELL.0 - 2, y + CELL.1 - 2)], colour.filled()))?;
                let ink = if share / most > 0.55 { WHITE } else { BLACK };
                let style = ("sans-serif", 13).into_font().color(&ink).pos(middle);
                let number = format!("{:.1} %", share * 100.0);
                area.draw(&Text::new(number, (x + CELL.0 / 2, y + CELL.1 / 2), style))?;
            }
        }
    }
    area.present()
}

//! Pictures of an evaluation: quality against bytes, and memory by layer and KV head.

use std::path::Path;

use leankv_model::eval::{ConfigReport, Report};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::failure::{Failure, at_path};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws `quality.svg` and `memory.svg` in a folder.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(at_path(folder))?;
    let failed = |path: &Path, error: Box<dyn std::error::Error>| {
        Failure::machine(format_args!("{}: {error}", path.display()))
    };
    let path = folder.join("quality.svg");
    let area = SVGBackend::new(&path, (1100, 700)).into_drawing_area();
    quality(report, &area).map_err(|e| failed(&path, e))?;
    println!("quality against bytes: {}", path.display());

    let shown: Vec<&ConfigReport> = report.configs.iter().filter(|c| !c.choice.is_uniform()).collect();
    if !shown.is_empty() {
        let path = folder.join("memory.svg");
        let area = SVGBackend::new(&path, map_size(report, shown.len())).into_drawing_area();
        memory(report, &shown, &area).map_err(|e| failed(&path, e))?;
        println!("memory by layer and KV head: {}", path.display());
    }
    Ok(())
}

/// How a kind of cache is drawn.
fn colour(config: &ConfigReport) -> RGBColor {
    use leankv_kernels::policy::PolicySpec;
    let variant = config.choice.variant.unwrap_or_default();
    match config.choice.policy {
        _ if variant.offset || variant.hadamard => full_palette::PURPLE,
        PolicySpec::Uniform => full_palette::GREY_700,
        PolicySpec::SinkWindow | PolicySpec::HeavyHitter => full_palette::ORANGE_800,
        PolicySpec::LeanKv { .. } | PolicySpec::Paper | PolicySpec::Released => full_palette::BLUE_700,
    }
}

/// Room for the names at the right of the plot.
const NAMES: i32 = 250;

/// KL against compression; both axes are logarithmic. FP16 itself has a KL of 0 and is not drawn. Points have numbers, from the largest cache
/// to the smallest, and names stand beside the plot.
fn quality(report: &Report, area: &Area<'_>) -> Drawn {
    area.fill(&WHITE)?;
    let floor = 1e-5;
    let mut points: Vec<(f64, f64, &ConfigReport)> = report.configs[1..]
        .iter()
        .filter_map(|config| Some((config.memory.compression(), config.figures?.kl.mean.max(floor), config)))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let span = |values: &mut dyn Iterator<Item = f64>, margin: f64| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        if low > high { (0.5, 2.0) } else { (low / margin, high * margin) }
    };
    let (x0, x1) = span(&mut points.iter().map(|p| p.0), 1.2);
    let (y0, y1) = span(&mut points.iter().map(|p| p.1), 1.6);
    let title = format!("{}: how far predictions move from FP16's, against bytes", report.model);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(14)
        .margin_right(NAMES)
        .x_label_area_size(46)
        .y_label_area_size(76)
        .build_cartesian_2d(x0.ln()..x1.ln(), (y0..y1).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("times smaller than FP16, in true bytes")
        .y_desc("KL divergence, nats a token")
        .x_label_formatter(&|x| format!("{:.1}", x.exp()))
        .y_label_formatter(&|y| format!("{y:.0e}"))
        .light_line_style(full_palette::GREY_100)
        .draw()?;
    let (width, _) = area.dim_in_pixel();
    for (at, &(x, y, config)) in points.iter().enumerate() {
        let (number, colour) = ((at + 1).to_string(), colour(config));
        let style = |size: i32| ("sans-serif", size).into_font().color(&colour);
        let point = EmptyElement::at((x.ln(), y))
            + Circle::new((0, 0), 5, colour.filled())
            + Text::new(number, (7, -13), style(12));
        chart.draw_series(std::iter::once(point))?;
        let (left, top) = (width as i32 - NAMES + 16, 50 + 22 * at as i32);
        let name = format!("{}  {} ({x:.1}x)", at + 1, config.choice);
        area.draw(&Circle::new((left, top + 7), 4, colour.filled()))?;
        area.draw(&Text::new(name, (left + 10, top), style(12)))?;
    }
    Ok(area.present()?)
}

const CELL: (i32, i32) = (34, 12);
const PANELS: usize = 6;
/// Room of a panel beside its cells: left, top, right and bottom.
const MARGIN: [i32; 4] = [52, 56, 26, 18];
const TITLE: i32 = 44;
/// A panel is at least as wide as its name.
const LEAST_WIDTH: i32 = 200;

fn panel(report: &Report) -> (i32, i32) {
    let [left, top, right, bottom] = MARGIN;
    let width = (left + report.kv_heads as i32 * CELL.0 + right).max(LEAST_WIDTH);
    (width, top + report.layers as i32 * CELL.1 + bottom)
}

fn map_size(report: &Report, panels: usize) -> (u32, u32) {
    let (panel, columns) = (panel(report), panels.min(PANELS) as i32);
    let width = (panel.0 * columns).max(640);
    (width as u32, (panel.1 * panels.div_ceil(PANELS) as i32 + TITLE) as u32)
}

/// One panel a cache: rows are layers, columns KV heads, colour is bytes as a part of FP16.
fn memory(report: &Report, shown: &[&ConfigReport], area: &Area<'_>) -> Drawn {
    area.fill(&WHITE)?;
    let middle = Pos::new(HPos::Center, VPos::Center);
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    let (width, _) = area.dim_in_pixel();
    let most = shown.iter().flat_map(|c| c.memory.head_parts()).fold(f64::MIN_POSITIVE, f64::max);
    let heading = format!(
        "{}: memory by layer (down) and KV head (across), dark is {:.0} % of FP16",
        report.model,
        100.0 * most
    );
    area.draw(&Text::new(heading, (width as i32 / 2, TITLE / 2), text(17).pos(middle)))?;
    let size = panel(report);
    for (at, config) in shown.iter().enumerate() {
        let left = size.0 * (at % PANELS) as i32;
        let (x, y) = (left + MARGIN[0], size.1 * (at / PANELS) as i32 + TITLE + MARGIN[1]);
        let centre = left + size.0 / 2;
        area.draw(&Text::new(config.choice.to_string(), (centre, y - 40), text(13).pos(middle)))?;
        let smaller = format!("{:.1}x smaller", config.memory.compression());
        area.draw(&Text::new(smaller, (centre, y - 22), text(12).pos(middle)))?;
        for (cell, part) in config.memory.head_parts().into_iter().enumerate() {
            let (layer, head) = (cell / report.kv_heads, cell % report.kv_heads);
            let (x, y) = (x + head as i32 * CELL.0, y + layer as i32 * CELL.1);
            if head == 0 && layer % 4 == 0 {
                area.draw(&Text::new(layer.to_string(), (x - 16, y + CELL.1 / 2), text(11).pos(middle)))?;
            }
            let shade = ViridisRGB.get_color(1.0 - part / most);
            area.draw(&Rectangle::new([(x, y), (x + CELL.0 - 1, y + CELL.1 - 1)], shade.filled()))?;
        }
    }
    Ok(area.present()?)
}

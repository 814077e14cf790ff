//! What tuning found, as one HTML file that needs no other.

use std::fmt::Write;
use std::path::Path;

use leankv_model::eval::Estimate;
use leankv_model::tune::{Found, Measured, Part, Stage, Trial};
use plotters::style::full_palette;

use super::{call, name};
use crate::failure::{Failure, at_path};
use crate::plot::{self, Point};

/// Writes it.
pub(crate) fn write(path: &Path, model: &str, layers: usize, found: &Found) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(at_path(folder))?;
    }
    let page = page(model, layers, found)
        .map_err(|error| Failure::machine(format_args!("{}: {error}", path.display())))?;
    std::fs::write(path, page).map_err(at_path(path))
}

fn page(model: &str, layers: usize, found: &Found) -> Result<String, Box<dyn std::error::Error>> {
    let mut out = String::new();
    let tuned = &found.tuned;
    let title = escape(&format!("{model}: bit widths by layer"));
    write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
    )?;
    let texts = [&tuned.texts, &tuned.held].map(|texts| escape(&texts.join(", ")));
    write!(
        out,
        "<p>Choices were made on {}; what was found was then measured on {}. KL is the divergence of predictions from FP16's, in nats a token, with one standard \
         error over the scored tokens; smaller is true bytes over the whole sequence.</p>",
        texts[0], texts[1]
    )?;
    let held: Vec<&Trial> = found.trials.iter().filter(|trial| trial.stage == Stage::Held).collect();
    if !held.is_empty() {
        let points: Vec<Point> = held.iter().map(|trial| point(found, trial)).collect();
        write!(out, "<h2>Quality against bytes, held-out text</h2>{}", plot::svg(model, points)?)?;
        out.push_str("<p>Blue: tuned, and kept. Grey: the default formats, the same in all layers, and what does not beat them here.</p>");
    }
    out.push_str("<h2>What each layer adds by itself</h2>");
    out.push_str(&sensitivities(layers, found)?);
    out.push_str("<h2>What was chosen</h2>");
    out.push_str(&chosen(layers, found)?);
    out.push_str("<h2>Every trial</h2>");
    out.push_str(&trials(&found.trials)?);
    write!(out, "<script>{SCRIPT}</script></html>")?;
    Ok(out)
}

fn point(found: &Found, trial: &Trial) -> Point {
    let of = found.tuned.points.iter().find(|point| point.is_by_layer() && point.cache == trial.cache);
    let tuned = of.is_some();
    // A tuned cache's own text names every layer.
    let name = of.map_or_else(|| short(&trial.cache.to_string()), call);
    let colour = if tuned { full_palette::BLUE_700 } else { full_palette::GREY_700 };
    let Measured { kl, compression, .. } = trial.measured;
    Point { name, colour, smaller: compression, kl: kl.mean }
}

/// A text that fits a line.
fn short(text: &str) -> String {
    match text.char_indices().nth(44) {
        Some((at, _)) => format!("{}\u{2026}", &text[..at]),
        None => text.to_owned(),
    }
}

/// A row for keys and one for values of every width: the darker, the more is lost.
fn sensitivities(layers: usize, found: &Found) -> Result<String, std::fmt::Error> {
    let mut out = String::from("<table class=\"map\"><tr><th>KL added, 10<sup>-3</sup>");
    (0..layers).try_for_each(|layer| write!(out, "<th>{layer}"))?;
    let mut bits: Vec<u32> = found.added.iter().map(|added| added.bits).collect();
    bits.sort_unstable();
    bits.dedup();
    let most = found.added.iter().map(|added| added.kl).fold(f64::MIN_POSITIVE, f64::max);
    for &width in &bits {
        for part in Part::BOTH {
            write!(out, "<tr><th>{} {width} bits", word(part))?;
            for layer in 0..layers {
                let added = found.added.iter().find(|a| (a.layer, a.part, a.bits) == (layer, part, width));
                let kl = added.map_or(0.0, |added| added.kl.max(0.0));
                // Losses span decades.
                let share = (1.0 + (kl / most).max(1e-4).log10() / 4.0).clamp(0.0, 1.0);
                write!(out, "<td style=\"background:{}\">{:.2}", shade(share), 1000.0 * kl)?;
            }
        }
    }
    out.push_str("</table>");
    Ok(out)
}

/// For every point the bits of each layer's keys and values.
fn chosen(layers: usize, found: &Found) -> Result<String, std::fmt::Error> {
    let mut out = String::from("<table class=\"map\"><tr><th>low tier, bits");
    (0..layers).try_for_each(|layer| write!(out, "<th>{layer}"))?;
    for point in &found.tuned.points {
        for part in Part::BOTH {
            write!(out, "<tr><th>{} {}", escape(&call(point)), word(part))?;
            for layer in 0..layers {
                let tiering = point.cache.formats.of(layer);
                let format = tiering.low.unwrap_or(tiering.high);
                let codec = if part == Part::Keys { format.key } else { format.value };
                let bits = codec.shape().code_bits;
                write!(out, "<td style=\"background:{}\">{bits}", shade(f64::from(bits) / 10.0))?;
            }
        }
    }
    out.push_str("</table>");
    Ok(out)
}

fn trials(trials: &[Trial]) -> Result<String, std::fmt::Error> {
    let mut out = String::from(
        "<p>Click on a column to sort by it.</p><table class=\"sorts\"><thead><tr><th>stage<th>cache<th>KL<th>\u{b1}<th>perplexity over FP16<th>\u{b1}<th>smaller<th>tokens</thead><tbody>",
    );
    for Trial { stage, cache, measured } in trials {
        let Measured { tokens, kl, over_fp16, compression } = measured;
        let (Estimate { mean, se }, over) = (*kl, *over_fp16);
        write!(
            out,
            "<tr><td>{}<td class=\"cache\">{}<td>{mean:.5}<td>{se:.5}<td>{:.4}<td>{:.4}<td>{compression:.2}<td>{tokens}",
            name(*stage),
            escape(&cache.to_string()),
            over.mean,
            over.se
        )?;
    }
    out.push_str("</tbody></table>");
    Ok(out)
}

fn word(part: Part) -> &'static str {
    match part {
        Part::Keys => "keys",
        Part::Values => "values",
    }
}

/// White for 0 to a dark orange for 1; text on it stays readable.
fn shade(share: f64) -> String {
    let mix = |to: f64| (255.0 - share.clamp(0.0, 1.0) * (255.0 - to)).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(240.0), mix(140.0), mix(60.0))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "body{font:15px sans-serif;max-width:1300px;margin:2em auto;padding:0 1em}table{border-collapse:collapse;font-size:12px}\
td,th{padding:2px 5px;text-align:right;font-variant-numeric:tabular-nums}th{font-weight:600}.map th:first-child{text-align:left;white-space:nowrap}\
.map{display:block;overflow-x:auto}.sorts th{cursor:pointer;border-bottom:1px solid #888}.sorts td:nth-child(-n+2),.sorts th:nth-child(-n+2){text-align:left}\
.cache{max-width:520px;overflow-wrap:anywhere}svg{max-width:100%;height:auto}";

/// Sorts a table by the column that is clicked on, up and down in turns.
const SCRIPT: &str = "document.querySelectorAll('.sorts th').forEach((head,at)=>{let up=1;head.onclick=()=>{\
const body=head.closest('table').tBodies[0];const of=row=>row.cells[at].textContent;\
[...body.rows].sort((a,b)=>{const x=of(a),y=of(b),n=parseFloat(x)-parseFloat(y);return up*(isNaN(n)?x.localeCompare(y):n)}).forEach(row=>body.append(row));up=-up}});";

#[cfg(test)]
mod tests {
    use leankv_model::tune::{Added, Effort, Point as TunedPoint, Tuned};

    use super::*;

    #[test]
    fn the_page_has_every_part_and_needs_no_other_file() {
        let estimate = |mean| Estimate { mean, se: mean / 10.0 };
        let measured = |kl: f64, compression: f64| Measured {
            tokens: 64,
            kl: estimate(kl),
            over_fp16: estimate(1.0 + kl),
            compression,
        };
        let cache: leankv_model::cache::KvChoice =
            "K8mV8m/K4mV4m;1=K8mV8m/K6mV2m@1/8:window=32".parse().unwrap();
        let uniform: leankv_model::cache::KvChoice = "@1/8".parse().unwrap();
        let trial = |cache: &leankv_model::cache::KvChoice, kl| Trial {
            stage: Stage::Held,
            cache: cache.clone(),
            measured: measured(kl, 8.0),
        };
        let point = TunedPoint {
            cache: cache.clone(),
            on: measured(0.01, 8.0),
            held: measured(0.02, 8.1),
            default: uniform.clone(),
            default_held: measured(0.03, 8.0),
        };
        let found = Found {
            tuned: Tuned {
                texts: vec!["a <text>".to_owned()],
                held: vec!["another".to_owned()],
                effort: Effort::Quick,
                max_kl: 0.01,
                points: vec![point],
            },
            added: vec![Added { layer: 1, part: Part::Values, bits: 2, kl: 0.0125 }],
            trials: vec![trial(&cache, 0.02), trial(&uniform, 0.03)],
            cut_short: false,
        };
        let page = page("a model", 2, &found).unwrap();
        for part in ["a &lt;text&gt;", "<svg", "tuned@1/8", ">12.50", ">6", "0.03000", "values 2 bits"] {
            assert!(page.contains(part), "`{part}` is missing");
        }
        for outside in ["src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}

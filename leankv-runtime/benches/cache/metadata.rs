//! What a token of each format takes, by what the bytes are, from the page layouts that kernels use.

use leankv_dsl::format::{KvFormat, PageLayout};
use leankv_runtime::Compiler;

use crate::common::{Outcome, Row};

const HEAD_DIM: u32 = 128;
/// The published page at head dim 128.
const PAGE_BYTES: u32 = 6784;

pub(crate) fn section(_: &Compiler, _: &mut Vec<Row>) -> Outcome<()> {
    println!("bytes a token and KV head, head dim {HEAD_DIM}, pages of {PAGE_BYTES} bytes");
    println!(
        "{:<10}{:>8}{:>8}{:>8}{:>8}{:>10}{:>9}{:>8}{:>10}{:>9}",
        "format",
        "tokens",
        "codes",
        "scales",
        "signif.",
        "position",
        "padding",
        "true",
        "of fp16",
        "no codes"
    );
    for name in ["fp16", "K8V8", "K8V4", "K8V4g1.2", "K8V2", "K4V4", "K4V2", "K4V2g2.4", "K4V1"] {
        let format: KvFormat = name.parse()?;
        let layout = PageLayout::derive(&format, HEAD_DIM, PAGE_BYTES)?;
        let account = layout.account();
        let codes = layout.keys().row_bytes + layout.values().row_bytes;
        // Scales and zero points.
        let meta = layout.key_meta().row_bytes + layout.value_meta().row_bytes;
        let (significance, position) = (layout.significance().row_bytes, layout.positions().row_bytes);
        let named = codes + meta + significance + position;
        let all = account.true_bytes_per_token();
        println!(
            "{name:<10}{:>8}{codes:>8}{meta:>8}{significance:>8}{position:>10}{:>9.2}{all:>8.1}{:>9.1}%{:>8.1}%",
            layout.tokens_per_page(),
            all - f64::from(named),
            100.0 * all / f64::from(account.fp16_bytes_per_token()),
            100.0 * (1.0 - f64::from(codes) / all),
        );
    }
    Ok(())
}

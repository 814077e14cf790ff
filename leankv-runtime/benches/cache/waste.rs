//! Bytes of the arena that hold no token while a server runs: prompts of 100 to 3000 tokens, outputs of 50 to 1000, an arena that is kept full. The page
//! manager runs as it does in a cache; how many tokens each (layer, KV head) keeps is drawn, as thresholds would decide.

use leankv_dsl::workload::Generator;
use leankv_runtime::kv::{CacheConfig, CacheShape, DeviceManager, PageManager};
use leankv_runtime::{Compiler, Device};

use crate::common::{Outcome, Row, row};

const LAYERS: usize = 32;
const KV_HEADS: usize = 8;
const LISTS: usize = LAYERS * KV_HEADS;
/// Tokens of a long sequence, for which thresholds are solved and the arena is sized.
const TYPICAL: usize = 1800;
/// Requests of that length that the arena holds.
const REQUESTS: usize = 24;
const SLOTS: usize = 96;
/// Decode steps before anything is counted, and those that count.
const BEFORE: usize = 1000;
const COUNTED: usize = 1500;

/// Significance over its mean within one (layer, KV head), log-logistic: `P(x > a) = 1 / (1 + (a / scale)^shape)`, with a mean of 1. The smaller the
/// shape, the fewer tokens matter.
#[derive(Clone, Copy)]
struct Head {
    shape: f64,
    scale: f64,
}

impl Head {
    fn new(shape: f64) -> Head {
        let b = std::f64::consts::PI / shape;
        Head { shape, scale: b.sin() / b }
    }

    fn above(self, threshold: f64) -> f64 {
        1.0 / (1.0 + (threshold / self.scale).powf(self.shape))
    }
}

/// What every list of a cache is judged by.
struct Model {
    heads: Vec<Head>,
    config: CacheConfig,
    shape: CacheShape,
    /// Bytes of a token's rows in the high and the low tier.
    raw: [f64; 2],
    thresholds: [f64; 2],
}

impl Model {
    /// With thresholds under which a typical sequence takes `share` of its FP16 bytes, or none.
    fn new(tiering: &str, share: Option<f64>) -> Outcome<Model> {
        let mut config = CacheConfig::new([LAYERS, KV_HEADS, 4, 128], SLOTS, 4096, 1);
        config.formats = tiering.parse()?;
        let (high, low) = config.layouts()?;
        let raw =
            [Some(&high), low.as_ref()].map(|layout| layout.map_or(0, |l| l.account().raw_bytes_per_token()));
        let mut random = Generator::new(7);
        let heads = random.f32s(LISTS, 1.2, 4.0).into_iter().map(|shape| Head::new(f64::from(shape)));
        let (heads, shape) = (heads.collect(), config.shape()?);
        let raw = raw.map(f64::from);
        let mut model = Model { heads, config, shape, raw, thresholds: [0.0; 2] };
        if let Some(share) = share {
            model.solve(share * f64::from(high.account().fp16_bytes_per_token()));
        }
        let pages: usize = model.pages(TYPICAL, 1.0).iter().map(|&pages| pages as usize).sum();
        model.shape.pages = pages * REQUESTS;
        // Pages are counted and not touched.
        model.shape.page_bytes = 16;
        Ok(model)
    }

    /// The loosest thresholds under which a typical token takes `bytes`; the two stand as far apart as the budget's do.
    fn solve(&mut self, bytes: f64) {
        let gap = if self.config.formats.has_low() { 16.0 } else { 1.0 };
        let (mut least, mut most) = (0.0f64, 1000.0f64);
        for _ in 0..60 {
            let middle = 0.5 * (least + most);
            self.thresholds = [middle, middle / gap];
            let each = self.heads.iter().map(|&head| {
                let [high, low] = self.kept(head, TYPICAL, 1.0);
                (high as f64 * self.raw[0] + low as f64 * self.raw[1]) / TYPICAL as f64
            });
            let mean = each.sum::<f64>() / LISTS as f64;
            if mean > bytes { least = middle } else { most = middle }
        }
    }

    /// High and low tokens of a list. The window is high; `taste` is how the request differs from others.
    fn kept(&self, head: Head, tokens: usize, taste: f64) -> [usize; 2] {
        let window = tokens.min(self.config.window);
        let [high, low] = self.thresholds.map(|threshold| head.above(threshold * taste));
        let of = |share: f64| ((tokens - window) as f64 * share) as usize;
        if self.config.formats.has_low() {
            [window + of(high), of(low - high)]
        } else {
            [window + of(low), 0]
        }
    }

    /// Pages of all lists, high and low.
    fn pages(&self, tokens: usize, taste: f64) -> Vec<i32> {
        let pages = |head: &Head| {
            let kept = self.kept(*head, tokens, taste);
            [0, 1].map(|tier| kept[tier].div_ceil(self.shape.tokens[tier]) as i32)
        };
        self.heads.iter().flat_map(pages).collect()
    }
}

struct Request {
    slot: usize,
    tokens: usize,
    end: usize,
    taste: f64,
}

/// Sums over the steps that count.
#[derive(Default)]
struct Sums {
    steps: usize,
    held: f64,
    /// Bytes of tokens' rows, and of places for tokens that hold none.
    tokens: f64,
    empty: f64,
    requests: usize,
    most: usize,
    given_up: usize,
    ended: usize,
}

struct Server<'a> {
    model: &'a Model,
    manager: DeviceManager,
    running: Vec<Request>,
    random: Generator,
    waiting: (usize, usize, f64),
    sums: Sums,
}

impl Server<'_> {
    fn next(random: &mut Generator) -> (usize, usize, f64) {
        let taste = 0.7 + random.below(600) as f64 / 1000.0;
        (100 + random.below(2901), 50 + random.below(951), taste)
    }

    /// One token more for every request that finds the pages; ends and admissions.
    fn step(&mut self) -> Outcome<()> {
        let ended: Vec<usize> = self.running.iter().filter(|r| r.tokens >= r.end).map(|r| r.slot).collect();
        self.running.retain(|r| r.tokens < r.end);
        self.sums.ended += ended.len();
        self.manager.free(&ended)?;

        let slots: Vec<usize> = self.running.iter().map(|r| r.slot).collect();
        let targets: Vec<i32> =
            self.running.iter().flat_map(|r| self.model.pages(r.tokens + 1, r.taste)).collect();
        let answers = self.manager.rebalance(&slots, &targets)?;
        let mut short = false;
        for (request, answer) in self.running.iter_mut().zip(answers) {
            match answer {
                Ok(()) => request.tokens += 1,
                Err(_) => short = true,
            }
        }
        // The newest is given up; those that lacked pages try again in the next step.
        if short {
            let newest = self.running.pop().map(|request| request.slot);
            self.manager.free(newest.as_slice())?;
            self.sums.given_up += 1;
            return Ok(());
        }
        loop {
            let (prompt, output, taste) = self.waiting;
            let taken: Vec<usize> = self.running.iter().map(|r| r.slot).collect();
            let Some(slot) = (0..SLOTS).find(|slot| !taken.contains(slot)) else { return Ok(()) };
            let wanted = self.model.pages(prompt, taste);
            // A few pages stay for the steps of those that run.
            let need = wanted.iter().map(|&n| n as usize).sum::<usize>() + LISTS;
            if need > self.manager.free_pages()? {
                return Ok(());
            }
            self.manager.rebalance(&[slot], &wanted)?.into_iter().collect::<Result<(), _>>()?;
            self.running.push(Request { slot, tokens: prompt, end: prompt + output, taste });
            self.waiting = Server::next(&mut self.random);
        }
    }

    fn count(&mut self) -> Outcome<()> {
        let (model, sums) = (self.model, &mut self.sums);
        sums.steps += 1;
        sums.held += (model.shape.pages - self.manager.free_pages()?) as f64;
        sums.requests += self.running.len();
        sums.most = sums.most.max(self.running.len());
        for request in &self.running {
            for &head in &model.heads {
                let kept = model.kept(head, request.tokens, request.taste);
                for (tier, kept) in kept.into_iter().enumerate() {
                    let each = model.shape.tokens[tier];
                    sums.tokens += kept as f64 * model.raw[tier];
                    sums.empty += (kept.next_multiple_of(each) - kept) as f64 * model.raw[tier];
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn section(compiler: &Compiler, rows: &mut Vec<Row>) -> Outcome<()> {
    println!(
        "{LAYERS} layers, {KV_HEADS} KV heads of 128, pages of 6784 bytes; {COUNTED} steps counted after {BEFORE}; significance drawn, see the source"
    );
    println!(
        "{:<24}{:>10}{:>10}{:>8}{:>10}{:>9}{:>10}{:>9}",
        "tiering, bytes of fp16", "requests", "given up", "full", "no token", "places", "padding", "tables"
    );
    for (tiering, share) in
        [("K8V4", None), ("K8V4", Some(0.25)), ("K8V4/K4V2", Some(1.0 / 3.0)), ("K8V4/K4V2", Some(0.2))]
    {
        let model = Model::new(tiering, share)?;
        let manager = DeviceManager::new(compiler, &Device::host(), model.shape)?;
        let mut random = Generator::new(11);
        let waiting = Server::next(&mut random);
        let mut server =
            Server { model: &model, manager, running: Vec::new(), random, waiting, sums: Sums::default() };
        for step in 0..BEFORE + COUNTED {
            if step == BEFORE {
                server.sums = Sums::default();
            }
            server.step()?;
            if step >= BEFORE {
                server.count()?;
            }
        }
        assert!(server.manager.audit()?.is_empty());
        let sums = &server.sums;
        let bytes = sums.held * model.config.page_bytes as f64;
        let (waste, empty) = (1.0 - sums.tokens / bytes, sums.empty / bytes);
        // A row of the table, four lengths, two counts and two thresholds a list; ring, references and generations a page.
        let words = sums.most * LISTS * (model.shape.table_len + 8) + 3 * model.shape.pages;
        let tables = (words * 4) as f64 / (model.shape.pages * model.config.page_bytes) as f64;
        let name = match share {
            None => format!("{tiering}, all kept"),
            Some(share) => format!("{tiering} at {:.0} %", 100.0 * share),
        };
        let percent = |x: f64| format!("{:.2}%", 100.0 * x);
        println!(
            "{name:<24}{:>10.1}{:>10}{:>8}{:>10}{:>9}{:>10}{:>9}",
            sums.requests as f64 / sums.steps as f64,
            sums.given_up,
            percent(sums.held / (sums.steps * model.shape.pages) as f64),
            percent(waste),
            percent(empty),
            percent(waste - empty),
            percent(tables),
        );
        let what = format!("bytes of held pages that hold no token, serving, {name}");
        rows.push(row(what, "< 5 %", format!("{:.2} %", 100.0 * waste), waste < 0.05));
    }
    Ok(())
}

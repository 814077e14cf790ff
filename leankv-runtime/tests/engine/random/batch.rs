//! Steps of an engine's batch: decodes and pieces of prompts, in any order. Where a prompt is cut changes nothing.

use half::f16;
use leankv_runtime::DeviceBuffer;
use leankv_runtime::kv::{KvError, LayerInput, RequestId, Rows, RowsMut, StepPart};
use proptest::sample::Index;

use super::config;
use super::picture::Picture;
use super::seen::{Seen, note, note_if};
use super::world::{World, shortage};
use crate::common::{Row, row};

/// Elements between the rows of the output.
const APART: usize = 24;

impl World {
    /// One step of these requests: a token of those that decode, and of a prompt a piece of the length that `cuts` says, up to the end of its chunk.
    pub(super) fn batch(&mut self, who: &[usize], cuts: &[Index], stop: Option<usize>) {
        if who.is_empty() {
            return;
        }
        let before = Picture::of(&self.cache);
        let mut parts = Vec::new();
        for (&who, cut) in who.iter().zip(cuts.iter().cycle()) {
            let left = match self.decodes(who) {
                true => 1,
                false => {
                    let in_chunk = self.cache.config().chunk - self.waiting(who);
                    (self.living[who].prompt - self.tokens(who)).min(in_chunk)
                }
            };
            let rows = cut.index(left) + 1;
            self.reaches(who, rows);
            parts.push(StepPart { request: self.living[who].id, rows });
        }
        let decodes: Vec<bool> = who.iter().map(|&who| self.decodes(who)).collect();
        let first: Vec<usize> = who.iter().map(|&who| self.tokens(who)).collect();
        let due: Vec<RequestId> = (who.iter().zip(&decodes))
            .filter(|&(&who, &decodes)| decodes && self.is_due(&self.living[who]))
            .map(|(&who, _)| self.living[who].id)
            .collect();
        let step = match self.cache.begin(&parts) {
            Ok(step) => step,
            Err(error) => {
                shortage(&error).unwrap_or_else(|| panic!("{error}"));
                assert!(
                    Picture::of(&self.cache).same_tokens(&before) || !due.is_empty(),
                    "P5: no token was touched"
                );
                self.doubt(&due);
                return note(Seen::NoBatch);
            }
        };
        let (config, mut out) = (config(), Vec::new());
        for layer in 0..stop.unwrap_or(config.layers) {
            let rows = parts.iter().zip(who).zip(&first).flat_map(|((part, &who), &first)| {
                let sequence = self.living[who].sequence;
                (first..first + part.rows).map(move |token| (sequence, token))
            });
            let rows: Vec<Row> = rows.map(|(sequence, token)| row(&config, sequence, token, layer)).collect();
            out.push(self.layer(step, layer, &rows));
        }
        if let Some(layers) = stop {
            self.doubt(&due);
            // Whoever ends it early is told so, and it goes on.
            let early = self.cache.finish(step);
            assert!(matches!(early, Err(KvError::Length { .. })) || layers == config.layers, "{early:?}");
            if layers < config.layers {
                self.left(who, layers);
                return;
            }
        } else {
            self.cache.finish(step).unwrap();
        }
        assert!(matches!(self.cache.finish(step), Err(KvError::NoStep)));
        let mut at = 0;
        for ((part, &who), &decodes) in parts.iter().zip(who).zip(&decodes) {
            let each = config.query_heads() * config.head_dim;
            let own = |layer: &Vec<u32>| layer[at * each..(at + part.rows) * each].to_vec();
            let own: Vec<Vec<u32>> = out.iter().map(own).collect();
            at += part.rows;
            if decodes {
                self.living[who].unsure = false;
                self.token_came(who, own, due.contains(&part.request), &before);
                continue;
            }
            self.came(who, own);
            let tokens = self.tokens(who);
            let ended = self.waiting(who) == config.chunk || tokens == self.living[who].prompt;
            if ended {
                self.chunk_ended(who);
            }
            note_if(!ended, Seen::Piece);
        }
        note_if(decodes.contains(&true) && decodes.contains(&false), Seen::Batch);
    }

    /// One layer, of queries, keys and values side by side, into an output whose rows lie apart.
    fn layer(&mut self, step: leankv_runtime::kv::StepId, layer: usize, rows: &[Row]) -> Vec<u32> {
        let config = config();
        let [q, kv] = [config.query_heads(), config.kv_heads].map(|heads| heads * config.head_dim);
        let all: Vec<f16> = rows.iter().flat_map(|row| [&row.q[..], &row.k, &row.v].concat()).collect();
        let all = self.device.upload(&all).unwrap();
        // No more than there are rows of.
        let apart = q + 2 * kv;
        let part = |first: usize, row: usize| {
            let end = (rows.len() - 1) * apart + first + row;
            Rows::from(all.slice(first..end).unwrap()).strided(apart)
        };
        let input = LayerInput { q: part(0, q), k: part(q, kv), v: part(q + kv, kv), priors: None };
        let mut out: DeviceBuffer<f32> =
            self.device.upload(&vec![f32::NAN; rows.len() * (q + APART)]).unwrap();
        self.cache.layer(step, layer, input, RowsMut::from(&mut out).strided(q + APART)).unwrap();
        let out = out.to_vec().unwrap();
        let beside = |row: &[f32]| row[q..].iter().all(|x| x.is_nan());
        assert!(out.chunks(q + APART).all(beside), "nothing is written between rows");
        out.chunks(q + APART).flat_map(|row| &row[..q]).map(|x| x.to_bits()).collect()
    }
}

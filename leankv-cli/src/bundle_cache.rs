//! `leankv bundle-cache`: all kernels that caches need, for several targets, in one bundle.

use std::sync::Arc;

use leankv_model::cache::page_bytes;
use leankv_runtime::cache::KernelCache;
use leankv_runtime::kv::{Basis, CacheConfig, Means, bundle};

use crate::args;
use crate::failure::Failure;
use crate::language;
use crate::select;

/// Runs the command.
pub(crate) fn run(args: &args::BundleCache) -> Result<(), Failure> {
    let targets = select::targets(&args.target)?;
    let configs = args.kv.iter().map(|name| configs(args, name)).collect::<Result<Vec<_>, _>>()?;
    let bundle = bundle(KernelCache::user(), &configs.concat(), &targets).map_err(Failure::kernel)?;
    bundle.write(&args.bundle).map_err(Failure::machine)?;
    eprintln!("wrote {} kernels to {}", bundle.len(), args.bundle.display());
    Ok(())
}

/// Of a cache of this name, all that its kernels depend on: two configurations of codes of rotated rows, since the means of a model may be known or not.
fn configs(args: &args::BundleCache, name: &str) -> Result<Vec<CacheConfig>, Failure> {
    let choice = language::choice(name)?;
    let Some(policy) = choice.policy.stock() else {
        return Err(Failure::usage(format_args!("`{name}` has a policy of a user's"))
            .help("call `leankv_runtime::kv::bundle` where the policy is defined"));
    };
    if choice.variants.is_some() {
        return Err(Failure::usage(format_args!("`{name}` has variants, which depend on the model"))
            .help("call `leankv_runtime::kv::bundle` with the configuration of the cache"));
    }
    let page_bytes = match args.page_bytes {
        Some(bytes) => bytes,
        None => page_bytes(&choice.formats, args.head_dim).map_err(Failure::usage)?,
    };
    // Kernels depend on formats, not on which layers have them.
    let layers = choice.formats.last_named().map_or(1, |last| last + 1);
    let config = CacheConfig {
        input: args.input,
        formats: choice.formats.clone(),
        page_bytes,
        chunk: args.chunk,
        window_q: args.window_q.unwrap_or(64.min(args.chunk)),
        window: choice.always.window,
        sinks: choice.always.sinks,
        peaks: choice.always.peaks as u32,
        policy: policy.into(),
        ..CacheConfig::new([layers, 1, args.group, args.head_dim], 1, 1, 1)
    };
    if !choice.formats.formats().any(|format| format.is_mid_rise()) {
        return Ok(vec![config]);
    }
    let zeros = vec![0.0; args.head_dim];
    let means = Some(Arc::new(Means { keys: zeros.clone(), values: zeros }));
    let of = |means| CacheConfig { basis: Basis { rotated: true, means }, ..config.clone() };
    Ok(vec![of(None), of(means)])
}

//! Carried variables of a loop, flattened.

use super::slot::{Saved, Slot, rebind};
use crate::diag::Diagnostic;
use crate::ir::{Loc, Type};
use crate::lang::record::{self, CARRY_TYPE, Handle};

/// The variables of a loop at its entry.
pub(crate) struct Carried {
    saved: Vec<Saved>,
    /// Type of each value of each variable; `None` for poison, which is not carried.
    types: Vec<Vec<Option<Type>>>,
}

impl Carried {
    /// The state of all slots.
    pub(crate) fn of(slots: &[Slot<'_>], loc: Loc) -> Carried {
        let saved: Vec<Saved> = slots.iter().map(Saved::of).collect();
        let types = saved.iter().map(|s| s.handles().iter().map(|&h| record::ty(h, loc)).collect()).collect();
        Carried { saved, types }
    }

    /// Values at entry.
    pub(crate) fn inits(&self) -> Vec<Handle> {
        let all = self.saved.iter().zip(&self.types);
        all.flat_map(|(s, types)| s.handles().iter().zip(types))
            .filter(|(_, ty)| ty.is_some())
            .map(|(&handle, _)| handle)
            .collect()
    }

    /// Their types.
    pub(crate) fn types(&self) -> Vec<Type> {
        self.types.iter().flatten().flatten().cloned().collect()
    }

    /// Gives the variables new values, one for each of [`types`](Carried::types).
    pub(crate) fn rebind(&self, slots: &mut [Slot<'_>], values: &[Handle]) {
        let mut values = values.iter().copied();
        for (slot, types) in slots.iter_mut().zip(&self.types) {
            let handles: Vec<Handle> = types
                .iter()
                .map(|ty| match ty {
                    Some(_) => values.next().unwrap_or_else(Handle::poison),
                    None => Handle::poison(),
                })
                .collect();
            rebind(slot, &handles);
        }
    }

    /// Gives the variables back what they had at entry.
    pub(crate) fn restore(&self, slots: &mut [Slot<'_>]) {
        let inits = self.inits();
        self.rebind(slots, &inits);
    }

    /// What the variables hold now, one value for each of [`types`](Carried::types). Reports variables whose type
    /// or plain part changed; the parameter stands in for what does not fit.
    pub(crate) fn yields(&self, slots: &[Slot<'_>], params: &[Handle], what: &str) -> Vec<Handle> {
        let mut out = Vec::with_capacity(params.len());
        let mut params = params.iter().copied();
        for ((slot, before), types) in slots.iter().zip(&self.saved).zip(&self.types) {
            before.check_plain(slot, what);
            let now = Saved::of(slot);
            let mut told = false;
            for (i, ty) in types.iter().enumerate() {
                let Some(ty) = ty else { continue };
                let param = params.next().unwrap_or_else(Handle::poison);
                let handle = now.handles().get(i).copied().unwrap_or(param);
                let Some(now) = record::ty(handle, slot.loc) else {
                    out.push(param);
                    continue;
                };
                if now == *ty {
                    out.push(handle);
                    continue;
                }
                out.push(param);
                if !std::mem::replace(&mut told, true) {
                    record::report(
                        Diagnostic::error(
                            CARRY_TYPE,
                            slot.loc,
                            format!("`{}` enters this {what} as `{ty}` and leaves its body as `{now}`", slot.name),
                        )
                        .help("a carried variable keeps its extents; start it with the extents it has at the end"),
                    );
                }
            }
        }
        out
    }
}

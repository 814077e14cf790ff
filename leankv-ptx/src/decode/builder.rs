//! Names, slots and labels of one function while it is decoded.

use super::op::Initial;
use crate::ty::Ty;
use crate::vm::regs::SINK;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// Register widths. Eight-bit registers are kept as 16-bit ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Width {
    Pred,
    W16,
    W32,
    W64,
    W128,
}

impl Width {
    pub(crate) fn of(ty: Ty) -> Width {
        match ty.bits() {
            1 => Width::Pred,
            4 | 8 | 16 => Width::W16,
            64 => Width::W64,
            128 => Width::W128,
            _ => Width::W32,
        }
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Width::Pred => 1,
            Width::W16 => 16,
            Width::W32 => 32,
            Width::W64 => 64,
            Width::W128 => 128,
        }
    }

    pub(crate) fn fits(self, want: Width) -> bool {
        self == want
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Width::Pred => "predicate",
            Width::W16 => "16-bit",
            Width::W32 => "32-bit",
            Width::W64 => "64-bit",
            Width::W128 => "128-bit",
        }
    }
}

/// What an instruction does with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Write,
    /// As a value, which may still be thrown away.
    Value,
    /// For what it cannot do without: an address, a membermask, a barrier's number.
    Control,
    /// As the guard, by the lanes that it turns off too.
    Guard,
}

/// A register: width (which decides the file) and slot.
pub(crate) type RegKey = (Width, u32);

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Sym {
    Reg(Width, u32),
    /// `.local` variable: offset and size in the frame's local memory.
    Local(u32, u32),
    /// `.param` variable or device-function parameter: offset and size in the frame's local memory.
    FrameParam(u32, u32),
    /// Kernel parameter: offset in parameter memory.
    KernelParam(u32),
    Shared(u32),
    Global(u32),
    Func(u32),
    /// `.reg .v2` or `.v4`: its elements are the registers `name.x` and so on.
    Vector(u32),
    Label(u32),
    Targets(Vec<String>),
    Prototype,
}

#[derive(Default)]
struct Scope {
    names: HashMap<String, Sym>,
    /// `name<N>` declarations: width, count and lazily assigned slots.
    ranges: HashMap<String, (Width, HashMap<u32, u32>, u32)>,
}

pub(crate) struct FuncBuilder {
    pub(crate) is_entry: bool,
    /// Module-level names.
    module: Rc<BTreeMap<String, Sym>>,
    scopes: Vec<Scope>,
    pub(crate) n32: u32,
    pub(crate) n64: u32,
    pub(crate) np: u32,
    /// Slots set when a frame starts: 64-bit?, slot, value, added offset.
    pub(crate) initials: Vec<(bool, u32, Initial, i64)>,
    known: HashMap<(bool, Initial, i64), u32>,
    pub(crate) pred_consts: Vec<(u32, bool)>,
    pub(crate) labels: Vec<Option<u32>>,
    pub(crate) local_bytes: u32,
    carry: Option<u32>,
    /// Register uses of the instruction that is being decoded.
    pub(crate) uses: Vec<(RegKey, Use)>,
    pub(crate) reg_names: HashMap<RegKey, String>,
}

impl FuncBuilder {
    pub(crate) fn new(is_entry: bool, module: Rc<BTreeMap<String, Sym>>) -> Self {
        FuncBuilder {
            is_entry,
            module,
            scopes: vec![Scope::default()],
            n32: 0,
            n64: 0,
            np: 0,
            initials: Vec::new(),
            known: HashMap::new(),
            pred_consts: Vec::new(),
            labels: Vec::new(),
            // Offset 0 stays unused, so that a null local pointer is caught.
            local_bytes: 16,
            carry: None,
            uses: Vec::new(),
            reg_names: HashMap::new(),
        }
    }

    pub(crate) fn push_scope(&mut self) {
        self.scopes.push(Scope::default());
    }

    pub(crate) fn pop_scope(&mut self) {
        self.scopes.pop();
    }

    pub(crate) fn declare(&mut self, name: &str, sym: Sym) -> Result<(), String> {
        let scope = self.scopes.last_mut().expect("the function scope outlives its body");
        match scope.names.insert(name.to_string(), sym) {
            None => Ok(()),
            Some(_) => Err(format!("`{name}` is declared twice in one scope")),
        }
    }

    pub(crate) fn declare_range(&mut self, name: &str, width: Width, count: u32) -> Result<(), String> {
        let scope = self.scopes.last_mut().expect("the function scope outlives its body");
        match scope.ranges.insert(name.to_string(), (width, HashMap::new(), count)) {
            None => Ok(()),
            Some(_) => Err(format!("`{name}<{count}>` is declared twice in one scope")),
        }
    }

    pub(crate) fn new_slot(&mut self, width: Width) -> u32 {
        let (counter, step) = match width {
            Width::Pred => (&mut self.np, 1),
            Width::W16 | Width::W32 => (&mut self.n32, 1),
            Width::W64 => (&mut self.n64, 1),
            Width::W128 => (&mut self.n64, 2),
        };
        let slot = *counter;
        *counter += step;
        slot
    }

    /// Notes a use of a register by the instruction that is being decoded.
    pub(crate) fn note(&mut self, name: &str, width: Width, slot: u32, how: Use) {
        // Registers of 16 bits live in the file of those of 32.
        let key = (if width == Width::W16 { Width::W32 } else { width }, slot);
        self.reg_names.entry(key).or_insert_with(|| name.to_string());
        self.uses.push((key, how));
    }

    pub(crate) fn lookup(&mut self, name: &str) -> Option<Sym> {
        let stem_len = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        for i in (0..self.scopes.len()).rev() {
            match self.scopes[i].names.get(name) {
                // A register is given its slot at its first use.
                Some(Sym::Reg(w, SINK)) => {
                    let w = *w;
                    let slot = self.new_slot(w);
                    let sym = Sym::Reg(w, slot);
                    self.scopes[i].names.insert(name.to_string(), sym.clone());
                    return Some(sym);
                }
                Some(sym) => return Some(sym.clone()),
                None => {}
            }
            // The name before `<N>` may itself end in digits.
            for split in stem_len..name.len() {
                let (stem, digits) = name.split_at(split);
                // `%r01` is not in `%r<N>`: PTX numbers without leading zeros.
                if digits.len() > 1 && digits.starts_with('0') {
                    continue;
                }
                let Ok(n) = digits.parse::<u32>() else { continue };
                let Some((width, slots, count)) = self.scopes[i].ranges.get(stem) else { continue };
                if n >= *count {
                    continue;
                }
                let width = *width;
                if let Some(slot) = slots.get(&n) {
                    return Some(Sym::Reg(width, *slot));
                }
                let slot = self.new_slot(width);
                if let Some((_, slots, _)) = self.scopes[i].ranges.get_mut(stem) {
                    slots.insert(n, slot);
                }
                return Some(Sym::Reg(width, slot));
            }
        }
        self.module.get(name).cloned()
    }

    /// Initial value and offset that give the address of a symbol.
    pub(crate) fn address_of(&self, sym: &Sym) -> Option<(Initial, i64)> {
        Some(match sym {
            Sym::Local(o, _) | Sym::FrameParam(o, _) => (Initial::Local(*o), 0),
            Sym::KernelParam(o) => (Initial::Const(u64::from(*o)), 0),
            Sym::Shared(i) => (Initial::Shared(*i), 0),
            Sym::Global(i) => (Initial::Global(*i), 0),
            Sym::Func(i) => (Initial::Func(*i), 0),
            Sym::Reg(..) | Sym::Vector(_) | Sym::Label(_) | Sym::Targets(_) | Sym::Prototype => return None,
        })
    }

    pub(crate) fn initial(&mut self, wide: bool, initial: Initial) -> u32 {
        self.initial_at(wide, initial, 0)
    }

    pub(crate) fn initial_at(&mut self, wide: bool, initial: Initial, offset: i64) -> u32 {
        let key = (wide, initial, offset);
        if let Some(slot) = self.known.get(&key) {
            return *slot;
        }
        let slot = self.new_slot(if wide { Width::W64 } else { Width::W32 });
        self.known.insert(key, slot);
        self.initials.push((wide, slot, initial, offset));
        slot
    }

    pub(crate) fn constant(&mut self, wide: bool, bits: u64) -> u32 {
        self.initial(wide, Initial::Const(bits))
    }

    pub(crate) fn const_pred(&mut self, value: bool) -> u32 {
        if let Some((slot, _)) = self.pred_consts.iter().find(|(_, v)| *v == value) {
            return *slot;
        }
        let slot = self.new_slot(Width::Pred);
        self.pred_consts.push((slot, value));
        slot
    }

    /// The carry flag of extended-precision arithmetic, a predicate.
    pub(crate) fn carry(&mut self) -> u32 {
        if let Some(slot) = self.carry {
            return slot;
        }
        let slot = self.new_slot(Width::Pred);
        self.carry = Some(slot);
        slot
    }

    pub(crate) fn new_label(&mut self) -> u32 {
        self.labels.push(None);
        self.labels.len() as u32 - 1
    }

    /// Reserves frame-local memory; `None` when it grows beyond what a thread may have.
    pub(crate) fn reserve_local(&mut self, bytes: u64, align: u32) -> Option<u32> {
        let offset = (u64::from(self.local_bytes)).next_multiple_of(u64::from(align.max(1)));
        let end = offset.checked_add(bytes)?;
        if end > 512 * 1024 {
            return None;
        }
        self.local_bytes = end as u32;
        Some(offset as u32)
    }

    pub(crate) fn is_special_name(&self, name: &str) -> bool {
        [
            "%clock",
            "%clock_hi",
            "%clock64",
            "%globaltimer",
            "%globaltimer_lo",
            "%globaltimer_hi",
            "%pm0",
            "%envreg0",
            "%current_graph_exec",
        ]
        .contains(&name)
    }
}

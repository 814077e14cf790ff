//! Decoded instructions: what the machine steps over.

use crate::syntax::ast::Space;
use crate::ty::Ty;
use crate::vm::regs::{AluFn, Args};

/// Classes that the counters distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // Each variant names its instructions.
pub enum Class {
    Integer,
    Float,
    Half,
    Double,
    Convert,
    Special,
    Move,
    Compare,
    GlobalLoad,
    GlobalStore,
    SharedLoad,
    SharedStore,
    LocalAccess,
    ParamLoad,
    Atomic,
    AsyncCopy,
    Matrix,
    MatrixMove,
    Warp,
    Barrier,
    Fence,
    Branch,
    Other,
}

/// A register destination or source of memory and collective instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reg {
    /// A 16-bit register: its slot keeps the upper half zero.
    R16(u32),
    R32(u32),
    R64(u32),
    Sink,
}

/// `[base + offset]`: the base is a register or constant slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addr {
    pub(crate) base: Reg,
    pub(crate) offset: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct Mem {
    pub(crate) space: Space,
    pub(crate) ty: Ty,
    /// Registers: destinations of a load, sources of a store.
    pub(crate) regs: [Reg; 8],
    pub(crate) count: u8,
    pub(crate) addr: Addr,
    /// `.nc`, or a load from constant memory: the location must not be written by the kernel.
    pub(crate) read_only: bool,
    /// `.acquire`, `.release`: orders memory between blocks.
    pub(crate) acquire: bool,
    pub(crate) release: bool,
    /// `.relaxed`, `.volatile`, `.acquire`, `.release`, `.mmio`: not a data race.
    pub(crate) strong: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Clone, Debug)]
pub(crate) struct Atom {
    pub(crate) space: Space,
    pub(crate) op: AtomOp,
    pub(crate) ty: Ty,
    pub(crate) addr: Addr,
    /// Operands: one value per vector element, or compare and swap values for `cas`.
    pub(crate) src: [Reg; 8],
    pub(crate) count: u8,
    pub(crate) dsts: [Reg; 8],
    pub(crate) acquire: bool,
    pub(crate) release: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReduxOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// What a collective does once all its lanes are there.
#[derive(Clone, Debug)]
pub(crate) enum Collective {
    Shfl {
        mode: ShflMode,
        d: Reg,
        p: u32,
        a: u32,
        b: u32,
        c: u32,
    },
    /// `d` is a register slot for a ballot, a predicate slot otherwise.
    Vote {
        mode: VoteMode,
        d: u32,
        src: u32,
    },
    Match {
        all: bool,
        d: u32,
        p: u32,
        src: Reg,
    },
    Redux {
        op: ReduxOp,
        ty: Ty,
        nan: bool,
        abs: bool,
        d: u32,
        a: u32,
    },
    Elect {
        d: u32,
        p: u32,
    },
    WarpSync,
    LdMatrix(Box<LdMatrix>),
    StMatrix(Box<LdMatrix>),
    MovMatrix {
        d: u32,
        a: u32,
    },
    Mma(Box<Mma>),
    Wmma(Box<Wmma>),
    /// Only uniformity is required (`setmaxnreg`, `griddepcontrol`).
    Nothing,
}

#[derive(Clone, Debug)]
pub(crate) struct LdMatrix {
    pub(crate) count: u8,
    pub(crate) trans: bool,
    pub(crate) regs: [u32; 4],
    pub(crate) addr: Addr,
    pub(crate) generic: bool,
}

/// Element types of an `mma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MmaTy {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
    S4,
    U4,
    F64,
    B1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccTy {
    F16,
    F32,
    S32,
    F64,
}

#[derive(Clone, Debug)]
pub(crate) struct Mma {
    pub(crate) m: u32,
    pub(crate) k: u32,
    pub(crate) a_ty: MmaTy,
    pub(crate) b_ty: MmaTy,
    pub(crate) acc: AccTy,
    pub(crate) d_acc: AccTy,
    pub(crate) satfinite: bool,
    /// One-bit products: `xor` instead of `and`.
    pub(crate) xor: bool,
    pub(crate) a: Vec<u32>,
    pub(crate) b: Vec<u32>,
    pub(crate) c: Vec<u32>,
    pub(crate) d: Vec<u32>,
}

/// A `wmma` load, store or product.
#[derive(Clone, Debug)]
pub(crate) struct Wmma {
    pub(crate) kind: WmmaKind,
}

#[derive(Clone, Debug)]
pub(crate) enum WmmaKind {
    Move {
        load: bool,
        row: bool,
        rows: u32,
        cols: u32,
        ty: Ty,
        space: Space,
        addr: Addr,
        /// Slot of the distance between rows or columns, in elements.
        stride: u32,
        regs: Vec<u32>,
        /// Slot for one element per lane on its way.
        scratch: u32,
    },
    Multiply {
        shape: [u32; 3],
        ab: Ty,
        c_ty: Ty,
        d_ty: Ty,
        satfinite: bool,
        a: Vec<u32>,
        b: Vec<u32>,
        c: Vec<u32>,
        d: Vec<u32>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarKind {
    Sync,
    Arrive,
    RedPopc,
    RedAnd,
    RedOr,
}

#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) kind: BarKind,
    pub(crate) aligned: bool,
    /// Slot of the barrier number.
    pub(crate) id: u32,
    /// Slot of the thread count, if given.
    pub(crate) count: Option<u32>,
    /// Destination: register slot (`popc`) or predicate slot.
    pub(crate) d: u32,
    pub(crate) src: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct CpAsync {
    pub(crate) bytes: u32,
    pub(crate) dst: Addr,
    pub(crate) src: Addr,
    pub(crate) src_size: Option<u32>,
    /// Encoded predicate source.
    pub(crate) ignore_src: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarOp {
    Init,
    Inval,
    Arrive,
    ArriveDrop,
    ExpectTx,
    ArriveExpectTx,
    TestWait,
    TestWaitParity,
    TryWait,
    TryWaitParity,
    PendingCount,
    CpAsyncArrive,
    CpAsyncArriveNoInc,
}

#[derive(Clone, Debug)]
pub(crate) struct Mbar {
    pub(crate) op: MbarOp,
    pub(crate) addr: Addr,
    pub(crate) generic: bool,
    /// State destination (64-bit slot), predicate destination, or `pending_count` result.
    pub(crate) d: u32,
    /// Count, parity (32-bit slot) or state (64-bit slot).
    pub(crate) src: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) enum Callee {
    Direct(u32),
    /// 64-bit slot that holds a function's code address.
    Indirect(u32),
}

/// How an argument or result crosses a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pass {
    /// Offset and size in the caller's local frame.
    Mem {
        offset: u32,
        bytes: u32,
    },
    Reg(Reg),
    /// A predicate's slot.
    Pred(u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) callee: Callee,
    pub(crate) args: Vec<Pass>,
    pub(crate) rets: Vec<Pass>,
    pub(crate) uniform: bool,
}

/// Registers whose value depends on when they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Cycles,
    CyclesHi,
    Cycles64,
    Global,
    GlobalLo,
    GlobalHi,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Alu(AluFn, Args),
    /// Integer division: division by zero is reported.
    Div(AluFn, Args, bool),
    Bra {
        target: u32,
        uniform: bool,
    },
    BrxIdx {
        index: u32,
        targets: Box<[u32]>,
        uniform: bool,
    },
    Call(Box<Call>),
    Ret,
    Exit,
    Trap,
    Nop,
    Ld(Box<Mem>),
    St(Box<Mem>),
    Atom(Box<Atom>),
    Fence {
        acquire: bool,
        release: bool,
        block_only: bool,
    },
    Bar(Box<Bar>),
    /// A `*.sync` instruction; `mask` is the slot of the membermask, or none for `.aligned` whole-warp ones.
    Collective {
        what: Collective,
        mask: Option<u32>,
    },
    ActiveMask {
        d: u32,
    },
    CpAsync(Box<CpAsync>),
    CpCommit,
    CpWait {
        leave: u32,
    },
    Mbar(Box<Mbar>),
    ReadClock {
        d: Reg,
        which: Timer,
    },
    Nanosleep,
}

/// `@p` guard: an encoded predicate source, or [`Guard::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guard(pub(crate) u32);

impl Guard {
    pub(crate) const NONE: Guard = Guard(u32::MAX);
}

/// Values a slot gets when a frame starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Initial {
    Const(u64),
    Special(Special),
    /// Address of a module variable in global or constant memory, plus an offset.
    Global(u32),
    /// Offset of a shared variable in the block's shared memory.
    Shared(u32),
    /// Offset in this frame's local memory.
    Local(u32),
    /// Code address of a function.
    Func(u32),
}

/// Special registers that are constant for a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicSmem,
    TotalSmem,
    Zero,
    One,
}

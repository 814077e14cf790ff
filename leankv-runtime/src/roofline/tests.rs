use leankv_dsl::target::{NvptxTarget, Product};
use leankv_ptx::syntax::ast::Ast;
use leankv_ptx::{Arg, Config, Counters, LaunchConfig, Machine, Module};

use super::executions::{Executions, Kind, Lines, Match};
use super::flight::{self, Turn, main_loop};
use super::pipes::Pipe;
use super::sass::{Listing, Loop};
use super::{Occupancy, RooflineError, Sums};
use crate::tools::PtxasEntry;

/// Sums over neighbours, a row of 32 a turn.
const PTX: &str = "\
.version 8.0
.target sm_90
.address_size 64

.visible .entry sums(.param .u64 .ptr .global .align 4 x, .param .u32 turns) {
    .reg .b64 %rd<4>;
    .reg .b32 %r<9>;
    .reg .f32 %f<6>;
    .reg .pred %p<2>;
    ld.param.u64 %rd1, [x];
    ld.param.u32 %r1, [turns];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    mov.f32 %f1, 0f00000000;
    mov.u32 %r3, 0;
$turn:
    .pragma \"nounroll\";
    ld.global.f32 %f2, [%rd3];
    shfl.sync.bfly.b32 %f3, %f2, 1, 31, -1;
    fma.rn.f32 %f1, %f2, %f3, %f1;
    add.s64 %rd3, %rd3, 128;
    bar.sync 0;
    add.u32 %r3, %r3, 1;
    setp.lt.u32 %p1, %r3, %r1;
    @%p1 bra $turn;
    st.global.f32 [%rd3], %f1;
    ret;
}
";

/// What `nvdisasm -c -gp` of CUDA 13.5 prints of it, some of the padding left out.
const SASS: &str = r#"
//--------------------- .text.sums                --------------------------
	.section	.text.sums,"ax",@progbits
	.sectioninfo	@"SHI_REGISTERS=8"
        .size           sums,(.L_x_4 - sums)
sums:
.text.sums:
	//## File ".nv_debug_ptx_txt", line 5
        /*0000*/                   LDC R1, c[0x0][0x28] ;
	//## File ".nv_debug_ptx_txt", line 12
        /*0010*/                   S2R R7, SR_TID.X ;
	//## File ".nv_debug_ptx_txt", line 14
        /*0020*/                   LDC.64 R2, c[0x0][0x210] ;
	//## File ".nv_debug_ptx_txt", line 16
        /*0030*/                   HFMA2.MMA R5, -RZ, RZ, 0, 0 ;
	//## File ".nv_debug_ptx_txt", line 5
        /*0040*/                   ULDC.64 UR6, c[0x0][0x208] ;
	//## File ".nv_debug_ptx_txt", line 16
        /*0050*/                   UMOV UR4, URZ ;
	//## File ".nv_debug_ptx_txt", line 25
        /*0060*/                   LDC R6, c[0x0][0x218] ;
	//## File ".nv_debug_ptx_txt", line 14
        /*0070*/                   IMAD.WIDE.U32 R2, R7, 0x4, R2 ;
.L_x_0:
	//## File ".nv_debug_ptx_txt", line 19
        /*0080*/                   LDG.E R0, desc[UR6][R2.64] ;
	//## File ".nv_debug_ptx_txt", line 24
        /*0090*/                   UIADD3 UR4, UR4, 0x1, URZ ;
	//## File ".nv_debug_ptx_txt", line 23
        /*00a0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
	//## File ".nv_debug_ptx_txt", line 25
        /*00b0*/                   ISETP.LE.U32.AND P0, PT, R6, UR4, PT ;
	//## File ".nv_debug_ptx_txt", line 22
        /*00c0*/                   IADD3 R2, P1, R2, 0x80, RZ ;
        /*00d0*/                   IADD3.X R3, RZ, R3, RZ, P1, !PT ;
.L_x_2:
	//## File ".nv_debug_ptx_txt", line 20
        /*00e0*/                   SHFL.BFLY PT, R4, R0, 0x1, 0x1f ;
	//## File ".nv_debug_ptx_txt", line 21
        /*00f0*/                   FFMA R5, R0, R4, R5 ;
	//## File ".nv_debug_ptx_txt", line 26
        /*0100*/              @!P0 BRA `(.L_x_0) ;
	//## File ".nv_debug_ptx_txt", line 27
        /*0110*/                   STG.E desc[UR6][R2.64], R5 ;
.L_x_3:
	//## File ".nv_debug_ptx_txt", line 28
        /*0120*/                   EXIT ;
.L_x_1:
        /*0130*/                   BRA `(.L_x_1);
        /*0140*/                   NOP;
        /*0150*/                   NOP;
.L_x_4:

//--------------------- SYMBOLS --------------------------
	.type		.nv.reservedSmem.offset0,@object
"#;

const SHUFFLE: &str = "        /*00e0*/                   SHFL.BFLY PT, R4, R0, 0x1, 0x1f ;\n";
const BARRIER: &str = "        /*00a0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;\n";
const EXIT: &str = "        /*0120*/                   EXIT ;\n";

const TURNS: u32 = 6;
const WARPS: u64 = 2;

/// Counts of the PTX, run by two warps.
fn counters() -> Counters {
    let mut machine = Machine::new(Config::default());
    let x = machine.alloc(4096, 128).unwrap();
    machine.write(x, &[0; 4096]).unwrap();
    let shape = LaunchConfig { grid: [1; 3], block: [32 * WARPS as u32, 1, 1], dynamic_shared_bytes: 0 };
    let args = [Arg::U64(x), Arg::U32(TURNS)];
    machine.launch(&Module::parse(PTX).unwrap(), "sums", shape, &args).unwrap().counters
}

fn lines() -> Lines {
    Lines::new(Ast::parse(PTX).unwrap().instruction_lines(), &counters())
}

fn executions(sass: &str) -> Result<(Listing, Executions), RooflineError> {
    let listing = Listing::parse(sass, "sums");
    let executions = Executions::of(&listing, &lines())?;
    Ok((listing, executions))
}

fn count(listing: &Listing, executions: &Executions, base: &str) -> Vec<f64> {
    let named = listing.instrs.iter().zip(&executions.counts).filter(|(instr, _)| instr.base() == base);
    named.map(|(_, &count)| count).collect()
}

#[test]
fn a_listing_has_instructions_blocks_and_loops() {
    let listing = Listing::parse(SASS, "sums");
    assert_eq!(listing.instrs.len(), 19, "padding is left out");
    let branch = &listing.instrs[16];
    assert_eq!((branch.address, branch.guarded, &branch.opcode[..], branch.line), (0x100, true, "BRA", 26));
    let shuffle = &listing.instrs[14];
    assert_eq!((shuffle.base(), shuffle.registers().collect::<Vec<_>>()), ("SHFL", vec![4, 0]));
    assert_eq!(listing.blocks(), [0..8, 8..17, 17..19]);
    assert_eq!(listing.loops(), [Loop { body: 8..17 }]);
    assert!(Listing::parse(SASS, "other").instrs.is_empty());
    assert_eq!(Listing::parse(&SASS.replace("        /*0100*/", "#"), "sums").loops(), []);
}

#[test]
fn instructions_ran_as_often_as_their_ptx() {
    let (listing, executions) = executions(SASS).unwrap();
    let (warps, turns) = (WARPS as f64, f64::from(TURNS) * WARPS as f64);
    for (base, expected) in
        [("S2R", warps), ("LDG", turns), ("SHFL", turns), ("FFMA", turns), ("STG", warps), ("EXIT", warps)]
    {
        assert_eq!(count(&listing, &executions, base), [expected], "{base}");
    }
    // Two come before the loop by the assembler's choice, though their line is in it.
    assert_eq!(count(&listing, &executions, "LDC"), [warps; 3]);
    let found = |kind| executions.matches.iter().find(|m| m.kind == kind).copied();
    assert_eq!(found(Kind::Shuffles), Some(Match { kind: Kind::Shuffles, ptx: turns, machine: turns }));
    assert_eq!(found(Kind::Products), None);
}

#[test]
fn copies_in_a_block_share_its_turns_and_copies_elsewhere_are_refused() {
    let doubled = SASS.replace(SHUFFLE, &SHUFFLE.repeat(2)).replace(BARRIER, &BARRIER.repeat(2));
    let doubled = doubled.replace(
        "LDG.E R0, desc[UR6][R2.64] ;\n",
        "LDG.E R0, desc[UR6][R2.64] ;\n /*0088*/ LDG.E R9, desc[UR6][R2.64] ;\n",
    );
    let (listing, found) = executions(&doubled).unwrap();
    let half = f64::from(TURNS) * WARPS as f64 / 2.0;
    assert_eq!(count(&listing, &found, "SHFL"), [half; 2]);
    assert_eq!(count(&listing, &found, "LDG"), [half; 2]);

    let peeled = SASS
        .replace(EXIT, &format!("\t//## File \"x\", line 20\n{SHUFFLE}\t//## File \"x\", line 28\n{EXIT}"));
    let error = executions(&peeled).err().map(|error| error.to_string()).unwrap();
    assert!(error.contains("PTX ran 12 shuffles"), "{error}");
}

#[test]
fn code_for_diverged_warps_does_not_run() {
    let text = SASS.replace(SHUFFLE, &format!("/*00dc*/ BRA.DIV ~URZ, `(.L_x_9) ;\n{SHUFFLE}.L_x_8:\n"));
    let apart = format!(".L_x_9:\n//## File \"x\", line 20\n{SHUFFLE}/*0124*/ BRA `(.L_x_8) ;\n");
    let text = text.replace(".L_x_1:\n", &format!("{apart}.L_x_1:\n"));
    let (listing, found) = executions(&text).unwrap();
    assert_eq!(count(&listing, &found, "SHFL"), [f64::from(TURNS) * WARPS as f64, 0.0]);
}

#[test]
fn slow_paths_do_not_run_and_other_functions_run_as_often_as_they_are_called() {
    for (function, runs) in
        [("$__internal_0_$__cuda_div_slowpath", 0.0), ("$__internal_0_$__cuda_div_u64", 12.0)]
    {
        let call = format!(
            "        /*00f4*/ @P1 BRA `(.L_x_5) ;\n /*00f8*/ CALL.REL.NOINC `({function}) ;\n.L_x_5:\n"
        );
        let branch = "\t//## File \".nv_debug_ptx_txt\", line 26\n";
        let text = SASS.replace(branch, &format!("{call}{branch}"));
        let text = text.replace("/*0140*/                   NOP;", "/*0140*/ NOP ;\n"); // Padding is behind functions.
        let text = text.replace(
            ".L_x_1:\n",
            &format!(
                ".L_x_1:\n        /*0130*/ BRA `(.L_x_1);\n{function}:\n /*0134*/ FFMA R1, R1, R1, R1 ;\n"
            ),
        );
        let (listing, found) = executions(&text).unwrap();
        assert_eq!(count(&listing, &found, "CALL"), [runs], "{function}");
        assert_eq!(count(&listing, &found, "FFMA")[1], runs, "{function}");
    }
}

#[test]
fn pipes_and_the_turn_of_the_loop_follow_from_the_counts() {
    let (listing, found) = executions(SASS).unwrap();
    let h200 = Product::named("H200").unwrap();
    let sums = Sums::of(&listing, &lines(), &found, &h200);
    let turns = f64::from(TURNS) * WARPS as f64;
    assert_eq!(sums.instructions, 9.0 * turns + 10.0 * WARPS as f64);
    assert_eq!(sums.cycles[Pipe::Issue as usize], sums.instructions / 4.0);
    // A load and a shuffle a turn, and a store.
    assert_eq!(sums.cycles[Pipe::Lsu as usize], 2.0 * turns + WARPS as f64);
    assert_eq!(sums.cycles[Pipe::Alu as usize], 3.0 * turns / 2.0);
    assert!(sums.unknown.is_empty(), "{:?}", sums.unknown);

    let main = main_loop(&listing, &found.counts).unwrap();
    let turn = flight::turn(&listing, Some(&main), &found.counts, &lines(), WARPS as f64, 1.0);
    let expected = Turn {
        address: Some(0x80),
        instructions: 9,
        turns: f64::from(TURNS),
        bytes: 128.0,
        waits: 1,
        largest_wait: 128.0,
        ..Turn::default()
    };
    assert_eq!(turn, expected);
    let whole = flight::turn(&listing, None, &found.counts, &lines(), WARPS as f64, 0.5);
    assert_eq!((whole.address, whole.bytes), (None, 64.0));
}

#[test]
fn loads_before_a_first_use_are_in_flight_together() {
    let text = |body: &str| {
        let instrs = body.lines().enumerate().map(|(n, line)| format!("/*{n:04x}*/ {} ;\n", line.trim()));
        format!(
            "\t.section\t.text.sums,\"ax\"\n//## File \"x\", line 19\n.L_x_0:\n{}",
            instrs.collect::<String>()
        )
    };
    let turn = |body: &str| {
        let listing = Listing::parse(&text(body), "sums");
        let main = Loop { body: 0..listing.instrs.len() };
        flight::turn(&listing, Some(&main), &vec![1.0; listing.instrs.len()], &lines(), 1.0, 1.0)
    };
    // The fragment of a product is four registers from the one that is named.
    let together =
        "LDG.E R1, [R40.64]\nLDG.E.128 R8, [R42.64]\nHMMA.16816.F32 R20, R8, R16, RZ\nIADD3 R1, R1, R2, RZ";
    let found = turn(together);
    assert_eq!((found.waits, found.largest_wait, found.before_product), (1, 256.0, Some(256.0)));
    let apart = "LDG.E R1, [R40.64]\nIADD3 R2, R1, R2, RZ\nLDG.E R11, [R2.64]\nHMMA.16816.F32 R20, R8, R16, RZ\nFADD R11, R11, R11";
    let found = turn(apart);
    assert_eq!((found.waits, found.largest_wait, found.mean_in_flight()), (2, 128.0, 128.0));
    // Loaded for the turn that follows: in flight all through this one.
    let ahead = "HMMA.16816.F32 R20, R8, R16, RZ\nLDG.E.128 R8, [R42.64]\nFADD R1, R1, R1";
    assert_eq!((turn(ahead).waits, turn(ahead).before_product), (1, Some(0.0)));
    let copies = "DEPBAR.LE SB0, 0x1\nLDGSTS.E.BYPASS.128 [R13], desc[UR4][R4.64], !P1\nLDGDEPBAR";
    let found = turn(copies);
    assert_eq!((found.waits, found.groups, found.most_in_flight()), (0, 2, 256.0));
}

#[test]
fn warps_fit_registers_shared_memory_and_blocks() {
    let of = |registers, shared_bytes, threads, target: NvptxTarget| {
        let entry = PtxasEntry { registers, shared_bytes, ..PtxasEntry::default() };
        let found = Occupancy::of(&entry, threads, 0, &target.gpu());
        (found.warps, found.limit())
    };
    assert_eq!(of(128, 1024, 128, NvptxTarget::Sm90), (16, "registers"));
    assert_eq!(of(96, 1024, 128, NvptxTarget::Sm90), (20, "registers"));
    assert_eq!(of(137, 0, 128, NvptxTarget::Sm80), (12, "registers"));
    assert_eq!(of(116, 54_272 - 1024, 128, NvptxTarget::Sm90), (16, "registers"));
    assert_eq!(of(116, 54_272 - 1024, 128, NvptxTarget::Sm80), (12, "shared memory"));
    assert_eq!(of(32, 0, 32, NvptxTarget::Sm89), (24, "blocks and warps"));
    assert_eq!(of(32, 0, 256, NvptxTarget::Sm86), (48, "blocks and warps"));
}

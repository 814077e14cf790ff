//! Expansions as text, and what the scan finds.

use proc_macro2::TokenStream;
use syn::parse_quote;

use crate::error::Errors;
use crate::generate;
use crate::scan::walk::scan_fn;

/// An expansion, formatted; it must be Rust.
fn show(tokens: TokenStream) -> String {
    let file = syn::parse2::<syn::File>(tokens).expect("expansions are items");
    prettyplease::unparse(&file)
}

fn device(item: TokenStream) -> String {
    show(generate::device::expand(TokenStream::new(), item))
}

#[test]
fn for_carries_what_its_body_assigns() {
    insta::assert_snapshot!(device(parse_quote! {
        fn sum(n: Scalar<i32>) -> Scalar<i32> {
            let mut acc = lit(0);
            for i in range(0, n) {
                acc += i;
            }
            acc
        }
    }));
}

#[test]
fn if_in_value_position_with_an_assignment_in_one_arm() {
    insta::assert_snapshot!(device(parse_quote! {
        fn choose(n: Scalar<i32>) -> Scalar<i32> {
            let mut seen = lit(0);
            let sign = if n.gt(0) {
                seen = n;
                lit(1)
            } else if n.eq(0) {
                lit(0)
            } else {
                lit(-1)
            };
            sign + seen
        }
    }));
}

#[test]
fn while_evaluates_its_condition_in_the_region() {
    insta::assert_snapshot!(device(parse_quote! {
        fn halve(n: Scalar<i32>) -> Scalar<i32> {
            let mut x = n;
            while x.gt(1) {
                x /= 2;
            }
            x
        }
    }));
}

#[test]
fn soft_candidates_are_probed_and_references_reborrowed() {
    insta::assert_snapshot!(device(parse_quote! {
        fn mixed(acc: &mut Scalar<i32>, n: Scalar<i32>) {
            let mut other = lit(0);
            for i in range(0, n) {
                *acc += i;
                bump!(other by i);
            }
        }
    }));
}

#[test]
fn plain_constructs_stay_as_they_are() {
    insta::assert_snapshot!(device(parse_quote! {
        fn plain(flag: bool, names: &[&str]) -> usize {
            for name in comptime(names) {
                if comptime(name.is_empty()) {
                    break;
                }
            }
            if let Some(first) = names.first() {
                return first.len();
            }
            match names.len() {
                0 => 1,
                n => n,
            }
        }
    }));
}

#[test]
fn kernel_with_comptime_parameters() {
    let attr = parse_quote!(space(block = [128, 256]), valid = |s| s.block > 0, warps = block / 32);
    let item = parse_quote! {
        /// Doubles.
        pub fn double(#[comptime] block: usize, #[arg(align = 16)] x: View<f32, 1>, n: Scalar<i32>) {
            x.tile(0, [block]);
        }
    };
    insta::assert_snapshot!(show(generate::kernel::expand(attr, item)));
}

#[test]
fn generic_kernel_with_its_own_spec() {
    let item = parse_quote! {
        fn attend<H: Hooks>(#[comptime] spec: AttendSpec, hooks: H) {
            hooks.run(spec.block);
        }
    };
    insta::assert_snapshot!(show(generate::kernel::expand(TokenStream::new(), item)));
}

#[test]
fn derive_of_a_spec() {
    insta::assert_snapshot!(show(generate::spec::derive(parse_quote! {
        #[spec(valid = |s| s.block % 32 == 0)]
        struct Tuned {
            /// Elements.
            #[spec(default = 64, values = [64, 128])]
            block: usize,
            name: String,
        }
    })));
}

#[test]
fn derives_of_carry_and_kernel_arg() {
    let carry = generate::derive::carry(parse_quote! {
        struct State<T> { sum: Scalar<f32>, #[carry(fixed)] width: usize, inner: T }
    });
    let arg = generate::derive::kernel_arg(parse_quote! {
        struct Operands { #[arg(align = 16)] x: View<f32, 2>, n: Scalar<i32> }
    });
    insta::assert_snapshot!(show(carry) + &show(arg));
}

/// Candidates of each construct: `name` when soft, `name!` when hard, `*name` through a reference.
fn candidates(function: syn::ItemFn) -> Vec<String> {
    let mut errors = Errors::default();
    let scan = scan_fn(&function.sig, &function.block, &mut errors);
    assert!(errors.is_empty(), "{}", errors.to_tokens());
    let show = |c: &crate::scan::walk::Candidate| {
        let (star, mark) = (if c.through_ref { "*" } else { "" }, if c.hard { "!" } else { "" });
        format!("{star}{}{mark}", c.name)
    };
    scan.constructs.iter().map(|all| all.changes.iter().map(show).collect::<Vec<_>>().join(" ")).collect()
}

/// What each construct only mentions.
fn seen(function: syn::ItemFn) -> Vec<String> {
    let mut errors = Errors::default();
    let scan = scan_fn(&function.sig, &function.block, &mut errors);
    assert!(errors.is_empty(), "{}", errors.to_tokens());
    let names =
        |all: &crate::scan::walk::Construct| all.seen.iter().map(ToString::to_string).collect::<Vec<_>>();
    scan.constructs.iter().map(|all| names(all).join(" ")).collect()
}

#[test]
fn a_change_in_a_nested_construct_reaches_every_outer_one() {
    let found = candidates(parse_quote! {
        fn f() {
            let mut acc = 0;
            for i in a {
                if c { acc = acc + y; }
                for j in b { acc += j; }
            }
        }
    });
    assert_eq!(found, ["acc!", "acc!", "acc!"]);
}

#[test]
fn shadowing_ends_where_its_block_ends() {
    let found = candidates(parse_quote! {
        fn f() {
            let mut acc = 0;
            for i in a {
                { let mut acc = y; acc += 1; }
                let mut own = 0;
                own += 1;
            }
            for i in a {
                { let acc = y; }
                acc = acc + y;
            }
        }
    });
    assert_eq!(found, ["", "acc!"]);
}

#[test]
fn every_way_to_name_a_place() {
    let found = candidates(parse_quote! {
        fn f(&mut self, out: &mut T, plain: T) {
            let (mut a, mut b, mut c, mut d, mut e, mut g) = start;
            let held = &mut x;
            for i in n {
                a.field = 1;
                b[2] = 1;
                (c, _) = (1, 2);
                take(&mut d);
                e.push(1);
                g(1);
                *out = 1;
                held.add(1);
                self.sum += 1;
                plain.method();
            }
        }
    });
    assert_eq!(found, ["*self! *out! a! b! c! d! e! g! *held!"]);
}

#[test]
fn reading_is_no_change() {
    let found = candidates(parse_quote! {
        fn f() {
            let (mut a, mut b, mut c) = start;
            for i in n {
                let x = a + b.len();
                println!("{}", c);
                c.clone();
            }
        }
    });
    assert_eq!(found, ["b c"]);
}

#[test]
fn macro_input_is_read_as_expressions_where_it_is_some() {
    let found = candidates(parse_quote! {
        fn f() {
            let (mut a, mut b, mut c) = start;
            if x {
                assert!(a.pop().is_some());
                m!(b by 1);
                m!(c = 1);
            }
        }
    });
    assert_eq!(found, ["a! b c!"]);
}

#[test]
fn a_local_macro_changes_what_its_body_names() {
    let function: syn::ItemFn = parse_quote! {
        fn f() {
            let mut s = start;
            let c = cell;
            macro_rules! add { ($x:expr) => { s += $x; c.set(1) } }
            for i in n { add!(i); }
            if n { add!(1); }
            done(c);
        }
    };
    assert_eq!(candidates(function.clone()), ["s", "s"]);
    assert_eq!(seen(function), ["c", "c"]);
}

#[test]
fn a_local_macro_that_names_a_shadowed_variable_is_refused() {
    let function: syn::ItemFn = parse_quote! {
        fn f() {
            let mut s = start;
            macro_rules! add { ($x:expr) => { s += $x } }
            let s = other;
            if n { add!(1); }
        }
    };
    let mut errors = Errors::default();
    scan_fn(&function.sig, &function.block, &mut errors);
    assert!(errors.to_tokens().to_string().contains("this macro changes `s`"), "{}", errors.to_tokens());
}

#[test]
fn mentions_are_seen_unless_they_may_have_moved_away() {
    let found = seen(parse_quote! {
        fn f(size: usize, x: &View<f32, 1>, free: Thing) {
            let (kept, moved, mut own) = start;
            let set = |v| kept.put(v);
            let four = 4;
            if c { eat(moved); own.put(&kept); size; x; four; }
            if c { set(1); free.put(1); }
            for i in n { free.put(i); }
            for t in 0..4 {
                if c { eat(moved, &own); }
            }
            set(2);
        }
    });
    assert_eq!(found, ["kept moved", "free kept", "free", "moved own", "moved own"]);
}

#[test]
fn conditions_are_outside_of_an_if_and_inside_of_a_while() {
    let found = candidates(parse_quote! {
        fn f() {
            let mut a = 0;
            if { a += 1; a > 0 } {}
            while { a += 1; a < 3 } {}
        }
    });
    assert_eq!(found, ["", "a!"]);
}

#[test]
fn mutable_patterns_borrow() {
    let found = candidates(parse_quote! {
        fn f() {
            let (mut a, mut b) = start;
            for i in n {
                if let Some(ref mut x) = a { x.set(1); }
                match b { ref mut y => {} }
            }
        }
    });
    assert_eq!(found, ["a! b!"]);
}

#[test]
fn errors_keep_the_item_and_are_all_told() {
    let text = show(generate::device::expand(
        parse_quote!(fast),
        parse_quote! {
            async fn broken(n: Scalar<i32>) {
                for i in range(0, n) { break; }
                while let Some(x) = y {}
            }
        },
    ));
    assert_eq!(text.matches("compile_error").count(), 4, "{text}");
    assert!(text.contains("async fn broken"), "{text}");
}

#[test]
fn nothing_that_is_no_rust_panics() {
    for text in
        ["", "fn", "fn f() {", "struct X;", "1 + 1", "#[kernel] fn f(x: _) {}", "fn f(self: &mut X) {}"]
    {
        let Ok(tokens) = text.parse::<TokenStream>() else { continue };
        for out in [
            generate::device::expand(TokenStream::new(), tokens.clone()),
            generate::kernel::expand(TokenStream::new(), tokens.clone()),
            generate::kernel::expand(tokens.clone(), tokens.clone()),
            generate::derive::carry(tokens.clone()),
            generate::derive::kernel_arg(tokens.clone()),
            generate::spec::derive(tokens.clone()),
        ] {
            drop(out);
        }
    }
}

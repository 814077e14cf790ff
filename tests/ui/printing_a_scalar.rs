use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, x: View<f32, 1>) {
    println!("n is {n}");
    println!("twice {}", n * 2);
    println!("{n:?}: the type is known");
    println!("{}", x.extent(0));
}

fn main() {}

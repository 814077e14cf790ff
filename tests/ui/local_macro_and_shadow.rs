use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut sum = lit(0);
    macro_rules! add {
        ($x:expr) => {
            sum += $x
        };
    }
    add!(1);
    let sum = sum * 2;
    for i in range(0, n) {
        add!(i);
    }
    out.set(0, sum);
}

fn main() {}

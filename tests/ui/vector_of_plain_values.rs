use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    let mut seen = Vec::<u32>::new();
    for i in range(0, n) {
        seen.push(1);
        out.set(i, i);
    }
    out.set(0, seen.len() as i32);
}

fn main() {}

use leankv_dsl::lang::*;

#[kernel]
fn broken(n: Scalar<i32>, out: PtrMut<i32>) {
    'rows: for i in range(0, n) {
        for j in comptime(0..3) {
            out.set(i, j);
            continue 'rows;
        }
    }
}

fn main() {}

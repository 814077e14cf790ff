use leankv_dsl::lang::*;

#[kernel]
fn broken(name: String, out: PtrMut<i32>) {
    out.set(0, name.len() as i32);
}

fn main() {}

use leankv_dsl::lang::*;

#[device]
fn broken(n: Scalar<i32>, sizes: &[i32]) -> Option<Scalar<i32>> {
    let first = *sizes.first()?;
    if n.gt(first) {
        let second = *sizes.get(1)?;
        return Some(n + second);
    }
    Some(n)
}

fn main() {}

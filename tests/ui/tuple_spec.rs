use leankv_dsl::lang::*;

#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, Spec)]
struct Broken(usize);

fn main() {}

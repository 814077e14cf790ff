//! Policies as values: which one a cache has is decided when its kernels are recorded.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use leankv_dsl::lang::launch::{Arguments, Name};
use leankv_dsl::lang::{ArgOptions, ArgScope, KernelArg, Tile};

use super::{
    HIGH, HeadFacts, Needs, PRUNED, Policies, Policy, PolicySpec, StepAction, StepFacts, TokenFacts,
};

/// A user's policy as a value.
///
/// What it is made of at run time (tables, numbers) are kernel parameters: `Params` says which, [`given`](PolicyVariant::given) what a launch
/// gives for them. As for codecs of a [`CodecChoice`](leankv_dsl::lang::attention::CodecChoice), they are numbers and views whose accesses are checked.
pub trait PolicyVariant: fmt::Debug + Send + Sync + 'static {
    /// Its kernel parameters.
    type Params: KernelArg;

    /// The policy.
    fn policy(&self, params: Self::Params) -> Box<dyn Policy>;

    /// What every launch gives for the parameters.
    fn given(&self) -> <Self::Params as KernelArg>::Given<'_>;

    /// As the policy's [`Policy::needs`].
    fn needs(&self) -> Needs {
        Needs::ALL
    }
}

/// A [`PolicyVariant`] of any type of parameters.
trait AnyPolicyVariant: fmt::Debug + Send + Sync {
    fn declare(&self, scope: &mut ArgScope, name: &str) -> Box<dyn Policy>;
    fn give<'a>(&'a self, name: Name<'_>, to: &mut Arguments<'a>);
    fn needs(&self) -> Needs;
}

impl<V: PolicyVariant> AnyPolicyVariant for V {
    fn declare(&self, scope: &mut ArgScope, name: &str) -> Box<dyn Policy> {
        self.policy(V::Params::declare(scope, name, ArgOptions::new()))
    }

    fn give<'a>(&'a self, name: Name<'_>, to: &mut Arguments<'a>) {
        V::Params::give(self.given(), name, to);
    }

    fn needs(&self) -> Needs {
        PolicyVariant::needs(self)
    }
}

/// The policy of a cache. Clones are the same choice.
#[derive(Clone, Debug)]
pub struct PolicyChoice(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Stock(PolicySpec),
    User { name: String, policy: Arc<dyn AnyPolicyVariant> },
}

impl PolicyChoice {
    /// A user's policy; its kernel parameters are called `policies.name`.
    pub fn user(name: &str, policy: impl PolicyVariant) -> PolicyChoice {
        PolicyChoice(Inner::User { name: name.to_owned(), policy: Arc::new(policy) })
    }

    /// The policy of this crate, if it is one.
    #[must_use]
    pub fn stock(&self) -> Option<PolicySpec> {
        match &self.0 {
            Inner::Stock(spec) => Some(*spec),
            Inner::User { .. } => None,
        }
    }

    /// Which candidates its steps look at.
    #[must_use]
    pub fn needs(&self) -> Needs {
        match &self.0 {
            Inner::Stock(spec) => spec.policy().needs(),
            Inner::User { policy, .. } => policy.needs(),
        }
    }
}

impl From<PolicySpec> for PolicyChoice {
    fn from(spec: PolicySpec) -> PolicyChoice {
        PolicyChoice(Inner::Stock(spec))
    }
}

impl Default for PolicyChoice {
    fn default() -> Self {
        PolicySpec::default().into()
    }
}

impl PartialEq for PolicyChoice {
    /// Whether kernels that are recorded with the one do what those do that are recorded with the other.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Inner::Stock(a), Inner::Stock(b)) => a == b,
            (Inner::User { policy: a, .. }, Inner::User { policy: b, .. }) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl fmt::Display for PolicyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Stock(spec) => spec.fmt(f),
            Inner::User { name, .. } => f.write_str(name),
        }
    }
}

/// The policy that a [`PolicyChoice`] among the kernel's [`Choices`](leankv_dsl::lang::Choices) names, as a parameter of a kernel; the specialisation's
/// without one.
pub struct ChosenPolicies(Option<Rc<dyn Policy>>);

impl fmt::Debug for ChosenPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a user's policy" } else { "the specialisation's policy" })
    }
}

impl Policies for ChosenPolicies {
    fn policy(&self, named: &PolicySpec) -> Box<dyn Policy> {
        match &self.0 {
            Some(user) => Box::new(Rc::clone(user)),
            None => named.policy(),
        }
    }
}

impl Policy for Rc<dyn Policy> {
    #[track_caller]
    fn prompt_tier(&self, tokens: &TokenFacts<'_>, head: &HeadFacts) -> Tile<i32, 1> {
        // A tier that does not exist is the nearest one that does.
        (**self).prompt_tier(tokens, head).clamp(PRUNED, HIGH)
    }

    #[track_caller]
    fn step(&self, facts: &StepFacts) -> StepAction {
        (**self).step(facts)
    }

    fn needs(&self) -> Needs {
        (**self).needs()
    }
}

impl KernelArg for ChosenPolicies {
    #[track_caller]
    fn declare(scope: &mut ArgScope, name: &str, _: ArgOptions) -> Self {
        let choice = scope.choices().get::<PolicyChoice>().cloned();
        let Some(PolicyChoice(Inner::User { name: user, policy })) = choice else {
            return ChosenPolicies(None);
        };
        ChosenPolicies(Some(policy.declare(&mut scope.checked(), &format!("{name}.{user}")).into()))
    }

    type Given<'a> = &'a PolicyChoice;

    fn give<'a>(given: &'a PolicyChoice, name: Name<'_>, to: &mut Arguments<'a>) {
        if let Inner::User { name: user, policy } = &given.0 {
            to.push_all(|own| policy.give(name.part(user), own));
        }
    }
}

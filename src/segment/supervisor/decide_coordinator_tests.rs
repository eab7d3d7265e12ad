use super::*;

#[test]
fn a_coordinator_and_its_standby_are_held_against_each_other_too() {
    let of = |shape| Facts { content: Some(Content::COORDINATOR), ..facts(shape, Look::Unknown("itself".into())) };
    let standby = |primary| says(&Facts { primary, ..of(Shape::Mirror) });
    assert_eq!(standby(Look::Seen(PrimaryHere::Lacks("another history".into()))), "NeedsRecovery");
    assert_eq!(standby(Look::Unknown("silent".into())), "start", "it may have to be activated");
    let put_back = Facts { other: Look::Seen(OtherHere::HoldsMore(more("dbid 8 holds more"))), ..of(Shape::Primary) };
    assert_eq!(says(&put_back), "PutBack");
    assert_eq!(says(&Facts { alone: Alone::InPlace, ..put_back.clone() }), "PutBack");
    assert_eq!(says(&Facts { not_replaced: not_replaced("another"), ..put_back.clone() }), "PutBack", "of another copy");
    assert_eq!(says(&Facts { not_replaced: not_replaced(&more("").copy), ..put_back }), "start in two steps");
}

/// The annotation that lets segments believe a coordinator that was put back lets that one dispatch.
#[test]
fn a_person_can_lift_that_a_coordinator_was_overtaken() {
    let overtaken = Facts {
        content: Some(Content::COORDINATOR),
        timeline: Some(Timeline(0)),
        other: Look::Seen(OtherHere::Behind),
        ..facts(Shape::Primary, Look::Unknown("itself".into()))
    };
    assert_eq!(says(&overtaken), "WaitingForPeer");
    let allowed = |seen| Some(Allowed::new(Timeline(0), Timeline(seen)));
    assert_eq!(says(&Facts { allowed: allowed(1), ..overtaken.clone() }), "start in two steps");
    assert_eq!(says(&Facts { allowed: allowed(2), ..overtaken.clone() }), "WaitingForPeer", "said of another one");
    let other = Look::Seen(OtherHere::Overtook(Timeline(1)));
    assert_eq!(says(&Facts { allowed: allowed(1), other, ..overtaken }), "WaitingForPeer", "it takes writes now");
}

/// The number of a timeline comes again: what was said of the activation before would have let the older catalog lead.
#[test]
fn what_a_person_said_of_one_activation_says_nothing_of_the_next() {
    let (seen, word) =
        (|timeline| Token { coordinator_timeline: Timeline(timeline), ..Token::of_a_test() }, Some(Allowed::new(Timeline(1), Timeline(2))));
    let heard = |token: Token, said| Token { coordinator_word: Allowed::spent(said, &token), ..token };
    let counts = |token: &Token| Allowed::unless_spent(word, token) == word;
    let pending = heard(seen(2), word);
    assert!(counts(&pending), "the volume has seen that one");
    assert!(!counts(&heard(seen(1), word)), "it has seen none, so it is said of none that comes");
    let spent = Token { coordinator_word: Some("1:2".into()), ..seen(1) };
    let activated_again = heard(Token { coordinator_timeline: Timeline(2), ..spent }, word);
    assert!(!counts(&activated_again), "it stands since before");
    assert!(counts(&heard(heard(activated_again.clone(), None), word)), "taken away, and said anew");
    let another = Some(Allowed::new(Timeline(0), Timeline(2)));
    assert_eq!(Allowed::unless_spent(another, &heard(activated_again.clone(), another)), another);

    let coordinator = |token: &Token| Facts {
        content: Some(Content::COORDINATOR),
        token: TokenState::Mine(Box::new(token.clone())),
        other: Look::Seen(OtherHere::Behind),
        allowed: Allowed::unless_spent(word, token),
        ..facts(Shape::Primary, Look::Unknown("itself".into()))
    };
    assert_eq!(says(&coordinator(&pending)), "start in two steps");
    let Decision::Stay(InstanceState::WaitingForPeer, why) = decide(&coordinator(&activated_again)) else { panic!("it leads") };
    assert!(why.contains("coordinator-timeline=1:2, which was said before") && why.contains("on this volume alone"), "{why}");
}

/// Each was activated while the other was silent.
#[test]
fn of_two_coordinators_on_one_timeline_none_begins_beside_the_other() {
    let of = |alone| Facts {
        content: Some(Content::COORDINATOR),
        other: Look::Seen(OtherHere::Rivals(Timeline(1))),
        alone,
        ..facts(Shape::Primary, Look::Unknown("itself".into()))
    };
    for alone in [Alone::Waits, Alone::Waited, Alone::InPlace] {
        assert_eq!(says(&of(alone.clone())), "WaitingForPeer", "{alone:?}");
    }
    assert_eq!(watch(&of(Alone::Waits)), Watch::LetRun, "which of them is to go on nobody but a person knows");
}

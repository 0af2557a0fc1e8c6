use super::*;

fn paths(tree: &Tree) -> Vec<String> {
    let mut walk = Walk::new(NodeId::ROOT);
    let mut all = Vec::new();
    while let Some(visit) = walk.next(tree) {
        all.push(match visit {
            Visit::Enter(id) => String::from_utf8(tree.path(id)).unwrap(),
            Visit::Leave(id) => format!("{}/", String::from_utf8(tree.path(id)).unwrap()),
        });
    }
    all
}

#[test]
fn insert_move_remove() {
    let mut tree = Tree::new();
    let dir = tree.insert(NodeId::ROOT, b"d", Node::new(NodeKind::Directory));
    let file = tree.insert(dir, b"f", Node::new(NodeKind::File));
    let other = tree.insert(NodeId::ROOT, b"e", Node::new(NodeKind::Directory));
    assert_eq!(paths(&tree), ["", "e", "e/", "d", "d/f", "d/", "/"]);
    tree.relocate(dir, other);
    assert_eq!(tree.path(file), b"e/d/f");
    assert_eq!(tree.lookup(&[b"e", b"d", b"f"]), Some(file));
    assert_eq!(tree.child(NodeId::ROOT, b"d"), None);
    tree.remove(other);
    assert_eq!(paths(&tree), ["", "/"]);
    assert_eq!(tree.child(dir, b"f"), None);
    let again = tree.insert(NodeId::ROOT, b"e", Node::new(NodeKind::Symlink));
    tree.set_target(again, b"x/y");
    assert_eq!(tree.target(again), b"x/y");
}

#[test]
fn names_that_are_none_never_come_out_again() {
    for bad in [&b"."[..], b"..", b"a/b", b"", b"a\0b", &[b'x'; 256]] {
        let mut tree = Tree::new();
        assert!(tree.check(1 << 20).is_ok());
        let id = tree.insert(NodeId::ROOT, bad, Node::new(NodeKind::File));
        assert_eq!(tree.name(id), b"");
        assert!(matches!(tree.check(1 << 20), Err(Error::InvalidLayer { .. })), "{bad:?}");
    }
    let mut tree = Tree::new();
    let id = tree.insert(NodeId::ROOT, b"link", Node::new(NodeKind::Symlink));
    tree.set_target(id, &[b'x'; 1 << 20]);
    assert!(matches!(tree.check(1 << 20), Err(Error::LimitExceeded { name: "index_bytes", .. })));
}

#[test]
fn a_deep_tree_needs_no_stack() {
    let mut tree = Tree::new();
    let mut at = NodeId::ROOT;
    for _ in 0..200_000 {
        at = tree.insert(at, b"x", Node::new(NodeKind::Directory));
    }
    assert!(tree.check(u64::MAX).is_err());
    let mut walk = Walk::new(NodeId::ROOT);
    let mut steps = 0;
    while walk.next(&tree).is_some() {
        steps += 1;
    }
    assert_eq!(steps, 400_002);
    tree.remove(tree.child(NodeId::ROOT, b"x").unwrap());
    assert_eq!(tree.first_child(NodeId::ROOT), None);
}

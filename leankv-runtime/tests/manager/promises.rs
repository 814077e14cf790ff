//! One promise, one test.

use leankv_runtime::Device;
use leankv_runtime::kv::{CacheShape, KvError, OutOfPages, PageManager, Refused, SequentialManager};

use crate::common::{SHAPE, canonical, device_manager, fill, sound};

/// Both managers.
fn managers(shape: CacheShape) -> [Box<dyn PageManager>; 2] {
    let device = device_manager(&Device::host(), shape);
    [Box::new(device), Box::new(SequentialManager::new(shape).unwrap())]
}

fn wanted(high: i32, low: i32) -> Vec<i32> {
    [high, low].repeat(SHAPE.lists())
}

#[test]
fn p5_out_of_pages_is_a_value_that_names_need_and_free_and_changes_nothing() {
    for mut manager in managers(SHAPE) {
        // 60 pages: 40 go, 24 do not fit, 20 do.
        assert_eq!(manager.rebalance(&[0], &wanted(5, 3)).unwrap(), [Ok(())]);
        assert_eq!(manager.free_pages().unwrap(), 28);
        let before = manager.snapshot().unwrap();
        let refused = manager.rebalance(&[3], &wanted(4, 4)).unwrap();
        let out = OutOfPages { need: 32, free: 28 };
        assert_eq!(refused, [Err(Refused::OutOfPages(out))]);
        assert_eq!(
            out.to_string(),
            "out of pages: 32 are needed and 28 are free; free or preempt a request and try again"
        );
        assert_eq!(manager.snapshot().unwrap(), before);
        // It can be tried again when another one gave back, and then succeeds.
        manager.rebalance(&[0], &wanted(4, 3)).unwrap();
        assert_eq!(manager.rebalance(&[3], &wanted(4, 4)).unwrap(), [Ok(())]);
        assert_eq!(manager.free_pages().unwrap(), 0);
        sound(&*manager);
    }
}

#[test]
fn p5_more_pages_than_a_row_of_the_table_holds_is_a_value_too() {
    for mut manager in managers(SHAPE) {
        let answers = manager.rebalance(&[1, 2], &[wanted(5, 4), wanted(5, 3)].concat()).unwrap();
        assert_eq!(answers, [Err(Refused::TableFull { table_len: 8 }), Ok(())]);
        sound(&*manager);
        let answers = manager.rebalance(&[1], &wanted(i32::MAX, i32::MAX)).unwrap();
        assert_eq!(answers, [Err(Refused::TableFull { table_len: 8 })]);
        assert_eq!(manager.rebalance(&[1], &wanted(-2, 0)).unwrap().len(), 1);
        sound(&*manager);
    }
}

#[test]
fn p6_shrinking_and_staying_need_no_page_however_full_the_arena_is() {
    let full = CacheShape { pages: 32, ..SHAPE };
    for mut manager in managers(full) {
        assert_eq!(manager.rebalance(&[0], &wanted(5, 3)).unwrap(), [Ok(())]);
        assert_eq!(manager.free_pages().unwrap(), 0);
        for (high, low, free) in [(5, 3, 0), (-1, -1, 0), (3, 3, 8), (-1, 1, 16), (0, -1, 28)] {
            assert_eq!(manager.rebalance(&[0], &wanted(high, low)).unwrap(), [Ok(())], "{high}, {low}");
            assert_eq!(manager.free_pages().unwrap(), free);
            sound(&*manager);
        }
    }
}

#[test]
fn p7_failing_the_nth_page_allocation_for_every_n_leaves_all_lists_whole() {
    // A story with admission, growth, forks, compaction and an end; with n pages the (n + 1)th allocation fails.
    let story = |manager: &mut dyn PageManager| -> Vec<bool> {
        let mut fine = Vec::new();
        let mut note = |answers: Vec<Result<(), Refused>>, manager: &dyn PageManager| {
            sound(manager);
            fine.extend(answers.iter().map(Result::is_ok));
        };
        let answers = manager.rebalance(&[0, 1], &[wanted(2, 1), wanted(1, 1)].concat()).unwrap();
        fill(manager, 0, 1);
        fill(manager, 1, 2);
        note(answers, manager);
        let answers = manager.fork(&[(0, 2), (1, 3)]).unwrap();
        note(answers, manager);
        let answers =
            manager.rebalance(&[2, 3, 0], &[wanted(3, 2), wanted(2, 1), wanted(3, 1)].concat()).unwrap();
        note(answers, manager);
        manager.free(&[0, 3]).unwrap();
        note(Vec::new(), manager);
        let answers = manager.rebalance(&[4, 0], &[wanted(1, 0), wanted(2, 2)].concat()).unwrap();
        note(answers, manager);
        fine
    };
    let mut refusals = 0;
    for pages in 1.. {
        let [mut device, mut sequential] = managers(CacheShape { pages, ..SHAPE });
        let fine = story(&mut *device);
        assert_eq!(fine, story(&mut *sequential), "{pages} pages");
        assert_eq!(canonical(&device.snapshot().unwrap()), canonical(&sequential.snapshot().unwrap()));
        device.free(&[0, 1, 2, 3, 4]).unwrap();
        sound(&*device);
        assert_eq!(device.free_pages().unwrap(), pages, "every page comes back");
        if fine.iter().all(|&fine| fine) {
            break;
        }
        refusals += 1;
    }
    assert!(refusals > 20, "{refusals}");
}

#[test]
fn p8_what_a_rebalance_gives_back_is_taken_by_the_next_one_and_not_by_itself() {
    let full = CacheShape { pages: 32, ..SHAPE };
    for mut manager in managers(full) {
        manager.rebalance(&[0], &wanted(5, 3)).unwrap();
        let both = [wanted(0, 0), wanted(5, 3)].concat();
        let answers = manager.rebalance(&[0, 1], &both).unwrap();
        // Kernels queued before may still read what request 0 held.
        assert_eq!(answers, [Ok(()), Err(OutOfPages { need: 32, free: 32 }.into())]);
        assert_eq!(manager.rebalance(&[1], &wanted(5, 3)).unwrap(), [Ok(())]);
        sound(&*manager);
    }
}

#[test]
fn p8_pages_are_used_in_turn_so_that_a_page_rests_as_long_as_can_be() {
    for mut manager in managers(SHAPE) {
        for turn in 0..30 {
            manager.rebalance(&[turn % 5], &wanted(1, 0)).unwrap();
            manager.free(&[turn % 5]).unwrap();
        }
        let state = manager.snapshot().unwrap();
        assert_eq!(state.generation, vec![2; SHAPE.pages]);
    }
}

#[test]
fn p9_pages_beyond_two_to_the_31_bytes_are_copied_where_they_belong() {
    // 2.3 GB of addresses, of which a few pages are touched.
    let shape = CacheShape {
        slots: 3,
        layers: 1,
        kv_heads: 1,
        table_len: 1 << 13,
        pages: 2300,
        page_bytes: 1 << 20,
        tokens: [2, 2],
    };
    let mut manager = device_manager(&Device::host(), shape);
    manager.rebalance(&[0], &[2200, 0]).unwrap();
    manager.rebalance(&[1], &[2, 0]).unwrap();
    manager.set_lengths(1, &[3, 0, 0, 0]).unwrap();
    let tail = 2201;
    assert_eq!(manager.snapshot().unwrap().table[shape.table_len..][..2], [2200, tail]);
    let word = 0x0123_4567_89AB_CDEFu64.to_le_bytes();
    let at = tail as usize * shape.page_bytes + 4096;
    // SAFETY: pages hold any bytes.
    unsafe { manager.state_mut() }.arena.write_at(at, &word).unwrap();
    assert_eq!(manager.fork(&[(1, 2)]).unwrap(), [Ok(())]);
    assert_eq!(manager.snapshot().unwrap().table[2 * shape.table_len..][..2], [2200, 2202]);
    let mut copy = [0; 8];
    manager
        .state()
        .arena
        .slice(at + shape.page_bytes..at + shape.page_bytes + 8)
        .unwrap()
        .read_into(&mut copy)
        .unwrap();
    assert_eq!(copy, word);
    sound(&manager);
}

#[test]
fn p10_a_snapshot_shows_what_is_held_and_a_finding_says_what_is_wrong() {
    let mut manager = device_manager(&Device::host(), SHAPE);
    manager.rebalance(&[2], &wanted(1, 1)).unwrap();
    let state = manager.snapshot().unwrap();
    assert_eq!((state.cursors, state.held[16..24].iter().sum::<i32>()), ([8, 60], 8));
    // Somebody writes over the page table.
    // SAFETY: nothing but the audit follows what was written.
    unsafe { manager.state_mut() }.table.write_at(2 * 4 * 8, &[59]).unwrap();
    let texts: Vec<String> = manager.audit().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "page 0 is lost: it is neither free nor in a list",
            "page 0 has 1 references, and 0 lists hold it",
            "page 59 is free, and 1 lists hold it",
            "page 59 has 0 references, and 1 lists hold it",
        ]
    );
}

#[test]
fn forks_copy_partly_filled_pages_and_share_the_others_byte_for_byte() {
    let mut manager = device_manager(&Device::host(), SHAPE);
    let mut model = SequentialManager::new(SHAPE).unwrap();
    let bytes: Vec<u8> = (0..SHAPE.arena_bytes()).map(|i| (i * 7 % 251) as u8).collect();
    // SAFETY: pages hold any bytes.
    unsafe { manager.state_mut() }.arena.write(&bytes).unwrap();
    model.arena_mut().copy_from_slice(&bytes);
    for manager in [&mut manager as &mut dyn PageManager, &mut model] {
        manager.rebalance(&[1], &wanted(2, 2)).unwrap();
        fill(manager, 1, 1);
        assert_eq!(manager.fork(&[(1, 4), (1, 0)]).unwrap(), [Ok(()), Ok(())]);
        assert!(matches!(manager.fork(&[(1, 4)]), Err(KvError::SlotInUse { slot: 4 })));
    }
    assert_eq!(manager.snapshot().unwrap(), *model.state());
    assert_eq!(manager.state().arena.to_vec().unwrap(), model.arena());
    sound(&manager);
}

#[test]
fn targets_on_the_device_are_followed_without_a_word_from_the_host() {
    let device = Device::host();
    let mut manager = device_manager(&device, SHAPE);
    let slots = device.upload(&[3i32, 1]).unwrap();
    let targets = device.upload(&[wanted(2, 1), wanted(1, 0)].concat()).unwrap();
    // SAFETY: slots 3 and 1 exist.
    unsafe { manager.queue(slots.as_view(), targets.as_view()) }.unwrap();
    assert_eq!(manager.granted().to_vec().unwrap()[..2], [1, 1]);
    assert_eq!(manager.answers(2).unwrap(), [Ok(()), Ok(())]);
    assert_eq!(manager.free_pages().unwrap(), 60 - 16);
    sound(&manager);
    let short = targets.slice(..8).unwrap();
    // SAFETY: as above.
    let refused = unsafe { manager.queue(slots.as_view(), short) };
    assert!(matches!(refused, Err(KvError::Length { .. })));
}

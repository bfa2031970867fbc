package nonblockingffi

import (
	"testing"
	"time"
)

func TestPlacement(t *testing.T) {
	seats := seatsOf("placement", 3)
	p := newPlacement(anywhere, seats)
	streak := func(number int, took time.Duration) {
		for i := 0; i < number; i++ {
			p.note(took)
		}
	}
	expect := func(what string, here bool) {
		t.Helper()
		entered := p.enter()
		if entered != here {
			t.Fatalf("%s: %v", what, entered)
		}
		if entered {
			p.seats.free.Add(1)
		}
	}
	expect("nothing is known", false)
	streak(minStreak-1, time.Microsecond)
	expect("too little is known", false)
	streak(1, short+1)
	streak(minStreak-1, time.Microsecond)
	expect("one was slow", false)
	streak(1, time.Microsecond)
	expect("it is quick", true)
	if p.measures() {
		t.Error("what is known is measured")
	}
	// Two of three threads.
	if !p.enter() || !p.enter() {
		t.Fatal("no seat")
	}
	expect("the last thread", false)
	// Another runtime of the pool.
	other := newPlacement(anywhere, seatsOf("placement", 3))
	other.quick.Store(true)
	if other.enter() {
		t.Error("the last thread, for another runtime")
	}
	if !p.judge(1, slack) || !p.judge(1000, slack+1000*short) {
		t.Error("that was quick")
	}
	p.leave()
	expect("a thread has left", true)
	if !p.judge(1, slack+short+1) {
		t.Error("one among so many")
	}
	if !p.judge(forgiven-1, 0) || p.judge(1, slack+short+1) {
		t.Error("that was the second soon")
	}
	p.leave()
	expect("it was slow", false)
	streak(2*minStreak-1, time.Microsecond)
	expect("once bitten", false)
	streak(1, time.Microsecond)
	expect("it is quick again", true)
	for i := 0; i < 20; i++ {
		p.quick.Store(true)
		p.judge(1, time.Second)
	}
	if need := p.need.Load(); need != maxStreak {
		t.Errorf("%d", need)
	}
	p.quick.Store(true)
	p.judge(trust+1, 0)
	if need := p.need.Load(); need != minStreak {
		t.Errorf("%d", need)
	}
}

func TestPlacementIsAsAskedFor(t *testing.T) {
	inline := newPlacement(here, seatsOf("one", 1))
	if !inline.enter() || !inline.enter() {
		t.Error("not inline")
	}
	if !inline.judge(1, time.Hour) || !inline.enter() || inline.measures() {
		t.Error("not inline any more")
	}
	goroutines := newPlacement(elsewhere, seatsOf("two", 2))
	if goroutines.enter() || goroutines.measures() {
		t.Error("not in goroutines")
	}
	for _, threads := range []int{0, 1} {
		p := newPlacement(anywhere, seatsOf(string(rune('a'+threads)), threads))
		p.quick.Store(true)
		if p.enter() {
			t.Errorf("of %d threads none is left", threads)
		}
	}
}

package nonblockingffi

import (
	"sync"
	"sync/atomic"
	"time"
)

// where says which threads handle requests.
type where int

const (
	// anywhere: the pool thread that brings them while that takes
	// microseconds, else goroutines.
	anywhere where = iota
	// here: the pool thread that brings them.
	here
	// elsewhere: goroutines.
	elsewhere
)

const (
	// short is the longest time of a request that a pool thread should handle:
	// about as long as it takes to wake a thread for its goroutine.
	short = 20 * time.Microsecond
	// slack is the time that a pool thread may always take, so that a single delay
	// of the operating system does not count.
	slack = 100 * time.Microsecond
	// minStreak is after how many short requests in a row a handler is
	// believed to be quick; maxStreak after how many, if that was wrong often.
	minStreak, maxStreak = 16, 256
	// forgiven is after how many short requests a long one is taken for a delay
	// of the operating system, which may give the core to somebody else for
	// milliseconds: a busy machine does that all the time.
	forgiven = 256
	// trust is after how many requests that were handled here an error of
	// judgement is forgotten.
	trust = 10000
)

// A placement decides which threads handle the requests of one runtime.
//
// A goroutine costs a wake-up of another thread, which takes many times as long as
// a quick handler. A pool thread that handles the request itself cannot
// bring others meanwhile. So a pool thread does that if the handler has been
// quick lately, and if there is a thread of its pool left that does not: however
// long the handler takes this time, requests reach Go.
type placement struct {
	where where
	seats *seats
	// quick says whether the handler is believed to be quick.
	quick atomic.Bool
	// streak counts short requests in a row, those handled here while quick and
	// in goroutines otherwise.
	streak atomic.Int32
	// need is how many make the handler quick.
	need atomic.Int32
}

// seats are the pool threads of a pool that may handle requests themselves.
type seats struct {
	free atomic.Int32
}

var pools struct {
	sync.Mutex
	byName map[string]*seats
}

// seatsOf returns the seats of a pool with so many threads, 0 if that is not
// known. One thread never takes a seat.
func seatsOf(pool string, threads int) *seats {
	pools.Lock()
	defer pools.Unlock()
	if known := pools.byName[pool]; known != nil {
		return known
	}
	made := &seats{}
	if threads > 1 {
		made.free.Store(int32(threads - 1))
	}
	if pools.byName == nil {
		pools.byName = make(map[string]*seats)
	}
	pools.byName[pool] = made
	return made
}

func (s *seats) take() bool {
	if s.free.Add(-1) >= 0 {
		return true
	}
	s.free.Add(1)
	return false
}

func newPlacement(where where, seats *seats) *placement {
	p := &placement{where: where, seats: seats}
	p.need.Store(minStreak)
	return p
}

// enter says whether the pool thread that has come should handle its requests.
// If so, leave must be called when it goes.
func (p *placement) enter() bool {
	if p.where != anywhere {
		return p.where == here
	}
	return p.quick.Load() && p.seats.take()
}

// leave is called when the pool thread goes, or handles requests no longer.
func (p *placement) leave() {
	if p.where == anywhere {
		p.seats.free.Add(1)
	}
}

// judge is told how many requests the pool thread has handled since it came, or
// since it last asked, and how long that took. It says whether it should go on.
func (p *placement) judge(requests int, took time.Duration) bool {
	if p.where != anywhere {
		return true
	}
	if took > slack+time.Duration(requests)*short {
		if p.streak.Swap(0) >= forgiven {
			return true
		}
		p.quick.Store(false)
		if need := p.need.Load(); need < maxStreak {
			p.need.Store(need * 2)
		}
		return false
	}
	if p.streak.Add(int32(requests)) > trust {
		p.streak.Store(forgiven)
		p.need.Store(minStreak)
	}
	return true
}

// measures says whether note wants to know how long a request takes.
func (p *placement) measures() bool {
	return p.where == anywhere && !p.quick.Load()
}

// note notes how long a request took that a goroutine has handled.
func (p *placement) note(took time.Duration) {
	if took > short {
		p.streak.Store(0)
	} else if p.streak.Add(1) >= p.need.Load() {
		p.streak.Store(0)
		p.quick.Store(true)
	}
}

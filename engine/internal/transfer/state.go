package transfer

import "fmt"

// A phase is how far a transfer is.
type phase int

const (
	created  phase = iota // what is missing isn't known yet
	checking              // what an earlier transfer left is held against its checksums, while more arrives
	fetching              // all that is there is right
	over                  // Run is returning: everybody leaves
)

// A state is what a worker's connection does.
type state int

const (
	idle        state = iota // there is none
	opening                  // a source was asked, and has not answered yet
	reading                  // a body arrives
	pacing                   // a body waits for the hash
	passing                  // the whole blob arrives, for whatever is missing
	interrupted              // it is ended: its piece was given to another, or the transfer is over
	replaced                 // it is ended because it was silent or too slow: a new one goes on
)

// transitions are the states that follow each state. Everything else is a bug.
var transitions = map[state][]state{
	idle:        {opening, idle},
	opening:     {reading, interrupted, idle},
	reading:     {pacing, passing, interrupted, replaced, idle},
	pacing:      {reading, interrupted, idle},
	passing:     {interrupted, idle},
	interrupted: {interrupted, idle},
	replaced:    {interrupted, idle},
}

var stateNames = [...]string{"idle", "opening", "reading", "pacing", "passing", "interrupted", "replaced"}

func (s state) String() string { return stateNames[s] }

// to changes a state to another, which must be one that may follow it.
func (s *state) to(next state) {
	for _, may := range transitions[*s] {
		if may == next {
			*s = next
			return
		}
	}
	panic(fmt.Sprintf("transfer: a connection that is %v becomes %v", *s, next))
}

// hasBody reports whether bytes arrive, or could.
func (s state) hasBody() bool { return s == reading || s == pacing || s == passing }

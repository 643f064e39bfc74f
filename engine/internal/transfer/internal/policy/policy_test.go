package policy_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"drayage/engine/internal/transfer/internal/policy"
)

func anyTransfer(rnd *rand.Rand) policy.Transfer {
	rate := func() float64 {
		if rnd.IntN(4) == 0 {
			return 0
		}
		return math.Pow(10, 2+7*rnd.Float64())
	}
	t := policy.Transfer{Size: 1 + rnd.Int64N(1<<34), Connections: 1 + rnd.IntN(64), Best: rate(), Hashing: rate()}
	t.Free = rnd.Int64N(t.Size)
	t.Total = t.Best * (1 + rnd.Float64()*float64(t.Connections-1))
	return t
}

func anyConnection(rnd *rand.Rand) policy.Connection {
	c := policy.Connection{Waited: time.Duration(rnd.Int64N(int64(10 * time.Second)))}
	if rnd.IntN(3) > 0 {
		c.Rate = math.Pow(10, 9*rnd.Float64())
	}
	return c
}

// Whatever the numbers are, a piece is worth its request and bounded.
func TestPiecesAreWorthARequestAndBounded(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		tr, c := anyTransfer(rnd), anyConnection(rnd)
		n := tr.PieceSize(c.Rate)
		if n < policy.Least || n > 48<<20 {
			t.Fatalf("%+v gives a connection of %g bytes a second a piece of %d bytes", tr, c.Rate, n)
		}
		length := 1 + rnd.Int64N(1<<30)
		switch cut := tr.Cut(length, c.Rate); {
		case cut == length:
		case tr.Connections == 1:
			t.Fatalf("the only connection takes %d of %d bytes", cut, length)
		case cut != n || length-cut < n/4:
			t.Fatalf("%+v cuts %d of %d bytes, and a piece is %d", tr, cut, length, n)
		}
	}
}

// A faster connection never gets a smaller piece.
func TestFasterConnectionsGetNoSmallerPieces(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 1))
	for range 10_000 {
		tr := anyTransfer(rnd)
		a, b := 1+1e9*rnd.Float64(), 1+1e9*rnd.Float64()
		if a > b {
			a, b = b, a
		}
		if slow, fast := tr.PieceSize(a), tr.PieceSize(b); slow > fast {
			t.Fatalf("%+v: %d bytes at %g bytes a second, %d at %g", tr, slow, a, fast, b)
		}
	}
}

// Who takes over leaves the owner a part that is none or worth keeping, and
// never more than there is.
func TestTakingOverSharesTheRest(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 1))
	for range 100_000 {
		tr, owner, taker := anyTransfer(rnd), anyConnection(rnd), anyConnection(rnd)
		rest := 1 + rnd.Int64N(1<<32)
		keep, worth := tr.TakeOver(owner, rest, taker.Rate)
		switch {
		case !worth && keep == 0:
		case !worth, keep < 0, keep >= rest, keep > 0 && keep < policy.Least/4:
			t.Fatalf("%+v: of %d bytes %+v keeps %d (%v)", tr, rest, owner, keep, worth)
		case keep == 0 && owner.Waited <= time.Second:
			t.Fatalf("%+v loses all of its piece at once", owner)
		}
	}
}

func TestEqualConnectionsShareEqually(t *testing.T) {
	tr := policy.Transfer{Size: 1 << 30, Connections: 2, Best: 1e7}
	owner := policy.Connection{Rate: 1e7, Waited: 5 * time.Second}
	keep, worth := tr.TakeOver(owner, 20<<20, 1e7)
	if !worth || keep != 10<<20 {
		t.Errorf("of 20 MiB the owner keeps %d bytes, %v", keep, worth)
	}
	if keep, worth := tr.TakeOver(policy.Connection{Waited: 5 * time.Second}, 20<<20, 1e7); !worth || keep != 0 {
		t.Errorf("a silent owner keeps %d bytes, %v", keep, worth)
	}
	if _, worth := tr.TakeOver(owner, policy.Least, 1e7); worth {
		t.Error("half of the least piece was worth a request")
	}
}

func TestTimeLeft(t *testing.T) {
	tr := policy.Transfer{Size: 1 << 30, Connections: 2, Best: 4 << 20}
	for _, c := range []struct {
		name string
		conn policy.Connection
		rest int64
		want time.Duration
	}{
		{"nothing is left", policy.Connection{}, 0, 0},
		{"its own rate", policy.Connection{Rate: 1 << 20, Waited: time.Minute}, 8 << 20, 8 * time.Second},
		{"a new one is as fast as the best", policy.Connection{Waited: time.Second}, 8 << 20, 2 * time.Second},
		{"one that has waited long has no end", policy.Connection{Waited: 3 * time.Second}, 8 << 20, time.Hour},
		{"nor has a crawl", policy.Connection{Rate: 1, Waited: time.Minute}, 1 << 30, time.Hour},
	} {
		if got := tr.TimeLeft(c.conn, c.rest); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	alone := policy.Transfer{Size: 1 << 30, Connections: 1}
	if got := alone.TimeLeft(policy.Connection{}, 64<<20-1); got != 0 {
		t.Errorf("one that has hardly begun needs %v", got)
	}
	if got := alone.TimeLeft(policy.Connection{}, 64<<20); got != time.Hour {
		t.Errorf("so much that help surely pays needs %v", got)
	}
}

// The faster the link is beside the hash, the smaller are the pieces.
func TestPiecesAreSmallWhereTheHashIsSlow(t *testing.T) {
	tr := policy.Transfer{Size: 1 << 30, Free: 1 << 30, Connections: 4, Best: 1e8, Total: 4e8, Hashing: 4e8}
	slow := tr
	slow.Hashing /= 4
	if tr.MostAhead() <= slow.MostAhead() || slow.MostAhead() < policy.Least {
		t.Errorf("%d bytes ahead, %d with a slow hash", tr.MostAhead(), slow.MostAhead())
	}
	if n := tr.PieceSize(1e8); n > tr.MostAhead() {
		t.Errorf("a piece of %d bytes is more than %d ahead", n, tr.MostAhead())
	}
}

func TestHelpIsWorthItsConnection(t *testing.T) {
	tr := policy.Transfer{Size: 1 << 30, Connections: 1, Best: 1 << 20}
	const mib = 1 << 20
	for _, c := range []struct {
		name  string
		free  int64
		owned int64
		busy  bool
		want  int64
	}{
		{"a free piece", mib, 5 * mib, false, 6 * mib},
		{"nearly one", mib - 1, 5 * mib, false, 0},
		{"an owner that needs long", 0, 5 * mib, true, 5 * mib},
		{"little is left", 0, 2*mib - 1, true, 0},
	} {
		tr.Free = c.free
		if got := tr.Helpful(c.owned, c.busy); got != c.want {
			t.Errorf("%s: %d bytes, want %d", c.name, got, c.want)
		}
	}
	fast := policy.Transfer{Size: 1 << 30, Connections: 1, Best: 1e9}
	if got := fast.Helpful(8*mib, true); got != 0 {
		t.Errorf("a body of which more is on its way than is gained is left: %d bytes", got)
	}
}

func TestTooSlow(t *testing.T) {
	const left = 100 << 20
	for _, c := range []struct {
		name   string
		rate   float64
		left   int64
		others []float64
		want   bool
	}{
		{"eight times slower than the other", 1e5, left, []float64{8.1e5}, true},
		{"not quite", 1e5, left, []float64{8e5}, false},
		{"half of all are fast", 1e5, left, []float64{9e5, 9e5, 1e5}, true},
		{"fewer are", 1e5, left, []float64{9e5, 1e5, 1e5}, false},
		{"it is nearly through", 1e5, 2e5, []float64{9e5}, false},
		{"nothing is known", 0, left, []float64{9e5}, false},
		{"nobody else is there", 1e5, left, nil, false},
	} {
		if got := policy.TooSlow(c.rate, c.left, c.others); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

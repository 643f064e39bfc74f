package bench

import "time"

// Sample is the measurement of one request.
type Sample struct {
	Due   time.Time // when it should have started; in a closed loop, when it did
	Start time.Time // when it started
	// Total is from Due to the last byte, FirstByte from Start to the first one.
	Total, FirstByte time.Duration
	// DNS, Connect and TLS are what a new connection took; 0 for a reused one.
	DNS, Connect, TLS time.Duration
	Fresh             bool   // made over a new connection
	HTTP2             bool   // which is an HTTP/2 connection
	First             bool   // this range was not read before, so it may be in no cache
	Bytes             int64  // of the body
	Host              string // the host that sent the body
	Err               string // the kind of error, such as "status 503"; "" for success
}

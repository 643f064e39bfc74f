//go:build !linux

package conns

import "net"

// cork does nothing here.
func cork(net.Conn) (uncork func()) { return func() {} }

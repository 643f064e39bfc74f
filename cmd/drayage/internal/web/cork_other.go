//go:build !linux

package web

import "net"

// cork does nothing here.
func cork(net.Conn) (uncork func()) { return func() {} }

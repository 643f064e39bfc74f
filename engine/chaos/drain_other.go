//go:build !linux

package chaos

import "net"

func drain(net.Conn) {}

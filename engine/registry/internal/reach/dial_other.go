//go:build !linux

package reach

import "net"

func limitWindow(net.Conn) {}

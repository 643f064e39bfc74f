//go:build !linux

package registry

import "net"

func limitWindow(net.Conn) {}

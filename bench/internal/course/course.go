// Package course is what benchmarks run on: servers in processes of their own, since
// the peak memory of a child counts that of the parent it was forked from, and links
// in front of them that count what they send.
package course

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
)

// Server is this same program, run as a server until Stop.
type Server struct {
	// Lines are what it said once it was ready, up to an empty line.
	Lines []string

	cmd   *exec.Cmd
	stdin io.Closer
}

// Serve runs this program with arguments by which it serves until its standard input
// ends.
func Serve(ctx context.Context, args ...string) (*Server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &Server{cmd: cmd, stdin: stdin}
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != ""; {
		s.Lines = append(s.Lines, lines.Text())
	}
	if len(s.Lines) == 0 {
		s.Stop()
		return nil, errors.New("the server didn't start")
	}
	return s, nil
}

// Stop ends the server.
func (s *Server) Stop() { _ = errors.Join(s.stdin.Close(), s.cmd.Wait()) }

// Link is drayage chaos in front of a server.
type Link struct {
	Host string

	cmd *exec.Cmd
}

// StartLink runs drayage chaos before a host.
func StartLink(ctx context.Context, drayage, upstream string, flags ...string) (*Link, error) {
	cmd := exec.CommandContext(ctx, drayage, append([]string{"chaos", "--upstream", upstream}, flags...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the link didn't start: %w", err)
	}
	return &Link{strings.TrimPrefix(strings.TrimSpace(line), "http://"), cmd}, nil
}

// Stop ends the link.
func (l *Link) Stop() { _ = errors.Join(l.cmd.Process.Kill(), l.cmd.Wait()) }

// Stats are the link's counters.
func (l *Link) Stats(ctx context.Context) (map[string]int64, error) {
	return Counts(ctx, "http://"+l.Host+"/stats")
}

// Counts reads counters, an object of JSON, from a URL.
func Counts(ctx context.Context, url string) (map[string]int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out map[string]int64
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

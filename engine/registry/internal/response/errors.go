package response

import (
	"encoding/json"
	"net/http"
	"strings"
)

// Errors are the error body of the OCI distribution spec, section
// "Error Codes".
type Errors struct {
	Errors []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail"`
	} `json:"errors"`
}

// ParseErrors reads the body of an error. One that is not of the specification has no errors.
func ParseErrors(body []byte) Errors {
	var e Errors
	_ = json.Unmarshal(body, &e) // other bodies are shown as text
	return e
}

// IsThrottled reports whether an answer says "too many requests", by its status
// or by the codes that registries send with others (G37).
func IsThrottled(status int, body []byte) bool {
	if status == http.StatusTooManyRequests {
		return true
	}
	if status != http.StatusForbidden && status != http.StatusServiceUnavailable && status != http.StatusBadRequest {
		return false
	}
	for _, e := range ParseErrors(body).Errors {
		if strings.EqualFold(e.Code, "TOOMANYREQUESTS") {
			return true
		}
	}
	text := string(body[:min(len(body), 2048)])
	return strings.Contains(text, "SlowDown") || strings.Contains(text, "ThrottlingException")
}

// IsQuota reports whether a throttling answer tells that it is about a quota
// over hours, not about requests a second: what Docker Hub says (G35).
func IsQuota(resp *http.Response, body []byte) bool {
	left, _, _ := strings.Cut(resp.Header.Get("Ratelimit-Remaining"), ";")
	return strings.TrimSpace(left) == "0" || strings.Contains(strings.ToLower(string(body[:min(len(body), 2048)])), "pull rate limit")
}

// Message is the message of an error body, as it came.
func Message(body []byte) string {
	var parts []string
	for _, e := range ParseErrors(body).Errors {
		switch {
		case e.Message != "":
			parts = append(parts, e.Message)
		case e.Code != "":
			parts = append(parts, e.Code)
		}
	}
	text := strings.Join(parts, "; ")
	if text == "" {
		text = string(body)
		if strings.HasPrefix(strings.TrimSpace(text), "<") {
			text = "" // a page for people says nothing in one line
		}
	}
	return text
}

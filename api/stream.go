package api

import "encoding/json"

// StreamType is the media type of a stream: one JSON object per line. A client that
// accepts it gets the progress of a long operation as [Message]s, of which the last
// holds the result or the problem. Events always come as such a stream.
const StreamType = "application/x-ndjson"

// Message is one line of an operation's stream. Exactly one field is set.
type Message struct {
	Progress *Progress       `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Problem  *Problem        `json:"problem,omitempty"`
}

// Progress says how far an operation is.
type Progress struct {
	// Step is what is being done, for a person.
	Step string `json:"step"`
	// Done of Total units of the step are finished. Both are 0 for a step that
	// cannot be counted.
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
}

// Report receives the progress of an operation, from one goroutine at a time. It
// must not block for long.
type Report func(Progress)

package main

import (
	"fmt"
	"io"

	"github.com/sirupsen/logrus"
)

// newLog is a log of JSON lines, as a cluster collects them.
func newLog(w io.Writer, level string) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(w)
	log.SetFormatter(&logrus.JSONFormatter{})
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	log.SetLevel(parsed)
	return log, nil
}

package image

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A recipe is what a Dockerfile says of an image that holds files and no more.
type recipe struct {
	config v1.Config
	copies [][2]string // from, in the build's folder, and to
}

// readRecipe understands the few instructions that a Dockerfile from scratch needs.
//
// Errors: another instruction, so that nothing it says is left out here.
// Source: Docker's Dockerfile reference, "Format", "Environment replacement".
func readRecipe(path string, args map[string]string) (recipe, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return recipe{}, err
	}
	r := recipe{config: v1.Config{Labels: make(map[string]string), WorkingDir: "/"}}
	declared := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var unknown string
		instruction, rest, _ := strings.Cut(os.Expand(line, func(name string) string {
			if _, ok := declared[name]; !ok {
				unknown = name
			}
			return declared[name]
		}), " ")
		if unknown != "" {
			return recipe{}, fmt.Errorf("read %s: %q: no ARG %s before it", path, line, unknown)
		}
		if instruction == "ARG" {
			declared[rest] = args[rest]
			continue
		}
		if err := r.take(instruction, rest); err != nil {
			return recipe{}, fmt.Errorf("read %s: %q: %w", path, line, err)
		}
	}
	return r, nil
}

// take adds one instruction, its arguments put in.
func (r *recipe) take(instruction, rest string) error {
	switch instruction {
	case "FROM":
		if rest != "scratch" {
			return fmt.Errorf("an image from %s is not understood here", rest)
		}
	case "LABEL":
		key, value, _ := strings.Cut(rest, "=")
		r.config.Labels[key] = strings.Trim(value, `"`)
	case "COPY":
		from, to, _ := strings.Cut(rest, " ")
		r.copies = append(r.copies, [2]string{from, to})
	case "USER":
		r.config.User = rest
	case "ENTRYPOINT":
		return json.Unmarshal([]byte(rest), &r.config.Entrypoint)
	default:
		return fmt.Errorf("instruction %s is not understood here", instruction)
	}
	return nil
}

// Package bpf holds the kernel programs: their C sources, the objects compiled
// from them, and the Go types that cross between the two. The objects are
// committed, so that clang is needed only to change them, and are the same bytes
// for the same compiler, which is pinned: Debian clang 14.
package bpf

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -go-package bpf -target bpfel -tags linux -no-global-types -type run -type pod -type pod_class -type guard_key -type guard_flag -type origin -type tuple -type counter -type socket_name -cflags "-O2 -g -Wall -Wextra -Werror -Wno-parentheses -Wno-unused-parameter" Redirect redirect.c
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -go-package bpf -target bpfel -tags linux -no-global-types -type node -type member -type refusal -type why -cflags "-O2 -g -Wall -Wextra -Werror -Wno-parentheses -Wno-unused-parameter" Node node.c
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -go-package bpf -target bpfel -tags linux -no-global-types -cflags "-O2 -g -Wall -Wextra -Werror -Wno-parentheses -Wno-unused-parameter" Destroy destroy.c
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -go-package bpf -target bpfel -tags linux -no-global-types -type pod -cflags "-O2 -g -Wall -Wextra -Werror -Wno-parentheses -Wno-unused-parameter" Tcx tcx.c

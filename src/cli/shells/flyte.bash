# Completion of `flyte` in bash: add the output of `flyte completion bash` to ~/.bashrc.
# Nothing here is newer than bash 3.2, which macOS has.
_flyte() {
  local value _ typed="${COMP_WORDS[COMP_CWORD]}"
  COMPREPLY=()
  while IFS=$'\t' read -r value _; do
    case "$value" in
      :files) _flyte_paths -f "$typed" ;;
      :folders) _flyte_paths -d "$typed" ;;
      *) COMPREPLY+=("$value") ;;
    esac
  done < <("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
_flyte_paths() {
  local path
  if type compopt >/dev/null 2>&1; then compopt -o filenames 2>/dev/null; fi
  while IFS= read -r path; do
    COMPREPLY+=("$path")
  done < <(compgen "$1" -- "$2")
}
complete -F _flyte flyte

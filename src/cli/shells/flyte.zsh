#compdef flyte
# Completion of `flyte` in zsh: write the output of `flyte completion zsh` to a file `_flyte` in a
# folder of $fpath, or evaluate it in ~/.zshrc behind `compinit`.
_flyte() {
  local line
  local -a values
  for line in "${(@f)$(${words[1]} __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    case "$line" in
      '') ;;
      :files) _files ;;
      :folders) _files -/ ;;
      *) values+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
    esac
  done
  (( $#values )) && _describe 'flyte' values
}
if [[ "${funcstack[1]}" == _flyte ]]; then _flyte "$@"; else compdef _flyte flyte; fi

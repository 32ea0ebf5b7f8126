# Completion of `flyte` in fish: write the output of `flyte completion fish` to
# ~/.config/fish/completions/flyte.fish.
function __flyte_candidates
    set -l typed (commandline -ct)
    set -l words (commandline -opc) "$typed"
    for line in ($words[1] __complete -- $words[2..-1] 2>/dev/null)
        switch $line
            case :files
                __fish_complete_path "$typed"
            case :folders
                __fish_complete_directories "$typed"
            case '*'
                echo $line
        end
    end
end
complete -c flyte -f -a '(__flyte_candidates)'

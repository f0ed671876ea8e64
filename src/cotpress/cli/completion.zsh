(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u; }
_cotpress() {
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX" script
    local -a call shown found
    call=("${words[1]/#\~/$HOME}")
    if [[ ${words[1]:t} == python* ]]; then
        if [[ ${words[2]} == -m && ${words[3]} == cotpress ]]; then
            call+=(-m cotpress)
        else
            script="${words[2]/#\~/$HOME}"
            [[ -f $script ]] && grep -q 'cotpress\.cli\.app' -- "$script" || { _default; return }
            call+=("$script")
        fi
    fi
    shown=("${(@f)$(COMP_LINE="$line" COMP_POINT=$#line "${call[@]}" -sc query=zsh 2>/dev/null)}")
    found=("${(@)shown%%$'\t'*}")
    shown=("${(@)shown/$'\t'/  -- }")
    [[ -n $found[1] ]] && compadd -l -S '' -d shown -- "${found[@]}" || _files
}
compdef _cotpress cotpress python python3

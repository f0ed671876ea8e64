(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u; }
_cotpress() {
    local script="${words[2]/#\~/$HOME}" line="${(j: :)words[1,CURRENT-1]} $PREFIX" shown found
    [[ -f $script ]] && grep -q 'cotpress\.cli\.app' -- "$script" || { _default; return }
    shown=("${(@f)$(COMP_LINE="$line" COMP_POINT=$#line "${words[1]/#\~/$HOME}" "$script" -sc query=zsh 2>/dev/null)}")
    found=("${(@)shown%%$'\t'*}")
    shown=("${(@)shown/$'\t'/  -- }")
    [[ -n $found[1] ]] && compadd -l -S '' -d shown -- "${found[@]}" || _files
}
compdef _cotpress python python3

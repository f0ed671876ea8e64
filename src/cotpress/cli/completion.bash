_cotpress() {
    local script="${COMP_WORDS[1]/#\~/$HOME}" line="${COMP_LINE:0:COMP_POINT}"
    [[ -f $script ]] && grep -q 'cotpress\.cli\.app' -- "$script" || return 0
    local word="${line##* }"
    local before="${word%"${word##*[$COMP_WORDBREAKS]}"}"  # readline takes a word with = in it for several
    mapfile -t COMPREPLY < <(
        export COMP_LINE COMP_POINT
        "${COMP_WORDS[0]/#\~/$HOME}" "$script" -sc query=bash 2>/dev/null
    )
    COMPREPLY=("${COMPREPLY[@]#"${before%@}"}")  # but counts @ to what follows
}
complete -o bashdefault -o default -o nospace -F _cotpress python python3

_cotpress() {
    local line="${COMP_LINE:0:COMP_POINT}"
    local -a call=("${COMP_WORDS[0]/#\~/$HOME}")
    if [[ ${COMP_WORDS[0]##*/} == python* ]]; then
        if [[ ${COMP_WORDS[1]} == -m && ${COMP_WORDS[2]} == cotpress ]]; then
            call+=(-m cotpress)
        else
            local script="${COMP_WORDS[1]/#\~/$HOME}"
            [[ -f $script ]] && grep -q 'cotpress\.cli\.app' -- "$script" || return 0
            call+=("$script")
        fi
    fi
    local word="${line##* }"
    local before="${word%"${word##*[$COMP_WORDBREAKS]}"}"  # readline takes a word with = in it for several
    mapfile -t COMPREPLY < <(
        export COMP_LINE COMP_POINT
        "${call[@]}" -sc query=bash 2>/dev/null
    )
    COMPREPLY=("${COMPREPLY[@]#"${before%@}"}")  # but counts @ to what follows
}
complete -o bashdefault -o default -o nospace -F _cotpress cotpress python python3

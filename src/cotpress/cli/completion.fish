function __cotpress_call
    set -l parts (commandline -opc)
    if test (basename -- $parts[1]) = cotpress
        echo $parts[1]
    else if test (count $parts) -ge 3; and test "$parts[2] $parts[3]" = "-m cotpress"
        printf '%s\n' $parts[1..3]
    else if test (count $parts) -ge 2; and test -f "$parts[2]"; and grep -q 'cotpress\.cli\.app' -- $parts[2]
        printf '%s\n' $parts[1..2]
    end
end
function __cotpress_typed
    test (count (__cotpress_call)) -ge 1
end
function __cotpress_words
    set -l call (__cotpress_call)
    set -lx COMP_LINE (commandline -cp)
    set -lx COMP_POINT (string length -- $COMP_LINE)
    $call -sc query=fish 2>/dev/null
end
for name in cotpress python python3
    complete -c $name -n '__cotpress_typed; and not string match -q "*=*" -- (commandline -ct)' -f
    complete -c $name -n __cotpress_typed -a '(__cotpress_words)'
end

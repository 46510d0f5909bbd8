import type { Command } from 'commander'
import { UserError } from '../../base/errors.ts'
import { completions } from '../completion.ts'
import { line } from '../output.ts'

/** Each asks `ropeway complete` with the words so far; names are then never out of date. */
const scripts: Readonly<Record<string, string>> = {
  bash: `_ropeway() {
  local one
  COMPREPLY=()
  while IFS= read -r one; do
    COMPREPLY+=("$one")
  done < <(ropeway complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _ropeway ropeway`,
  zsh: `#compdef ropeway
_ropeway() {
  local -a found
  found=("\${(@f)$(ropeway complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  (( \${#found} )) && [[ -n "\${found[1]}" ]] && compadd -a found || _files
}
compdef _ropeway ropeway`,
  fish: `function __ropeway_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l found (ropeway complete -- $words[2..-1] 2>/dev/null)
  if set -q found[1]
    printf '%s\\n' $found
  else
    __fish_complete_path (commandline -ct)
  end
end
complete -c ropeway -f -a '(__ropeway_complete)'`,
}

const installed: Readonly<Record<string, string>> = {
  bash: 'eval "$(ropeway completion bash)" in ~/.bashrc',
  zsh: 'eval "$(ropeway completion zsh)" in ~/.zshrc, after compinit',
  fish: 'ropeway completion fish > ~/.config/fish/completions/ropeway.fish',
}

export function completionCommands(program: Command): void {
  program
    .command('completion')
    .description('print the script that completes commands, options and names in a shell')
    .argument('<shell>', Object.keys(scripts).join(', '))
    .addHelpText(
      'after',
      `\n${Object.entries(installed)
        .map(([shell, how]) => `${shell}: ${how}`)
        .join('\n')}`,
    )
    .action((shell: string) => {
      const script = scripts[shell]
      if (script === undefined)
        throw new UserError(`There is no completion for ${shell}.`, {
          failure: 'usage',
          fix: `It takes one of ${Object.keys(scripts).join(', ')}.`,
        })
      line(script)
    })
  program
    .command('complete', { hidden: true })
    .argument('[words...]')
    .allowUnknownOption()
    .action(async (words: string[]) => {
      for (const word of await completions(program, words)) line(word)
    })
}

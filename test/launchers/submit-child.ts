/** A server that submits a run and waits to be killed: `submit-child.ts ROOT FOLDER`. */
import { LocalLauncher } from '../../src/control/launchers/local/local-launcher.ts'

const [root, folder] = process.argv.slice(2) as [string, string]
const wrapper = new URL('../../src/cli/run-wrapper.ts', import.meta.url)
const launcher = new LocalLauncher({ root, devices: {}, wrapper })
await launcher.submit({
  id: 'from-child',
  command: [
    'sh',
    '-c',
    'echo begun; while [ "$(ps -o stat= -p $SERVER | cut -c1)" ] && [ "$(ps -o stat= -p $SERVER | cut -c1)" != Z ]; do sleep 0.05; done; echo done; exit 5',
  ],
  environment: { SERVER: String(process.pid) },
  folder,
  members: 1,
})
const timer = setInterval(async () => {
  if ((await launcher.observe('from-child')).members[0]?.state === 'running')
    process.stdout.write('running\n')
}, 20)
timer.ref()

"""Our own rules about user agents: what the two maintained lists do not have, or have wrong.

The rules are tried in the order of the lists below, the first that matches decides. They are regular expressions of
Rust (no look-around), because `tracker.analysis.agents` compiles them into the engine of the maintained lists.
docs/adr/0035 compares these rules with other lists on public collections of user agents.
"""

from typing import Literal, NamedTuple

Kind = Literal["person", "proxy", "scanner", "bot"]


class Rule(NamedTuple):
    kind: Kind
    pattern: str
    name: str | None = None
    """The name of the agent; None: the text that matched."""
    purpose: str = ""


# The list of bots has these words too, but here they are the names of browsers, applications and phones.
_PEOPLE = (
    r"Sogou(?:MSE|MobileBrowser|AndroidBrowser|Search (?:Android|iOS|App))",
    r"(?i:HTC[ _]?(?:J[ _])?Butterfly)",
    r"ViewSonic",
    r"(?i:Butterfly|Sonic|Fever|Expanse|Speedy)[\w .+-]{0,20}Build/",
    r"\(speedy;",
    r"[A-Za-z]\d?008/",
    r"NewsBlur (?:iPad|iPhone|Android) App|NewsBlur/[\d.]+ CFNetwork",
    r"Mobile Safari/[\d.]+ (?:Viber|Podimo)|Safari/[\d.]+ Viber|Podimo/[\d.]+ build",
    r"Macintosh;.* Fluid/",
    r" Code/1\.[\d.]+ Chrome/",
    r"BTWebClient|(?i:uTorrent|qBittorrent)",
    r"(?i:cubot|botech|caboto)",
    r"bsalsa\.com|avantbrowser\.com|multibrowser|xbmc\.org|libwww-FM|Mosaic",
)

# Servers that fetch the images of a mail or a page for people who read it.
_PROXIES = (
    (r"GoogleImageProxy", "Gmail (Google image proxy)"),
    (r" Edge/12\.246 Mozilla/5\.0$", "Gmail (fetched before the mail was opened)"),
    (r"YahooMailProxy", "Yahoo Mail"),
    (r"^Mozilla/5\.0$", "Apple Mail (Privacy Protection)"),
    (r"SeznamEmailProxy", "Seznam Email"),
    (r"RamblerMail/.*ImageProxy", "Rambler Mail"),
    (r"mail\.ukr\.net proxy", "Ukr.net Mail"),
    (r"YandexImageResizer|YaMailImageProxy", "Yandex Mail"),
    (r"(?i:github-camo)", "GitHub (Camo)"),
    (r"(?i:^camo(?:-rs)?\b|camo asset proxy)", "Camo"),
    (r"StartpagePrivateImageProxy", "Startpage"),
    (r"DuckDuckGo-Favicons|DuckDuckGo.*ImageProxy", "DuckDuckGo"),
)

# Gateways that open mails and follow their links to look for attacks, as far as they say who they are. Most of them
# send the user agent of a browser, and then nothing in the log shows them.
_SCANNERS = (
    (r"(?i:barracuda)", "Barracuda"),
    (r"(?i:proofpoint|urldefense)", "Proofpoint"),
    (r"(?i:mimecast)", "Mimecast"),
    (r"(?i:safe[ -]?links|microsoft[ -]?defender|office ?365 ?(?:atp|protection))", "Microsoft Defender"),
    (r"(?i:cisco[ -]?(?:secure|ironport|umbrella)|ironport|talos ?intelligence)", "Cisco"),
    (r"(?i:trend ?micro|\bTMES\b|\bTMCSS\b)", "Trend Micro"),
    (r"(?i:messagelabs|symantec(?:\.cloud| email| web)|norton-safeweb)", "Symantec"),
    (r"(?i:sophos(?:labs| ))", "Sophos"),
    (r"(?i:forti(?:guard|mail|sandbox))", "Fortinet"),
    (r"(?i:zscaler)", "Zscaler"),
    (r"(?i:fireeye|trellix)", "Trellix"),
    (r"(?i:forcepoint|websense)", "Forcepoint"),
    (r"(?i:bitdefender)", "Bitdefender"),
    (r"(?i:kaspersky)", "Kaspersky"),
    (r"(?i:hornetsecurity|vade ?secure|vadesecure|mailmarshal|cofense|ironscales|spamhaus|cloudmark)", None),
    (r"Google-Safety|Google-PhishingProtection", "Google Safe Browsing"),
    (r"(?i:YandexAntivirus|phish(?:tank|bucket|fort|labs)|TwinWaveScanner|Valimail)", None),
    (r"(?i:paloaltonetworks|palo alto networks)", "Palo Alto Networks"),
)

_UNLISTED = (
    # A program that gives an address for questions. Browsers of people give none.
    (r"(?i:https?:|\bwww\.|mailto:|[\w.+-]{2,40}@[\w-]{2,40}\.[a-z]{2})", "not listed; it names a contact"),
    (
        r"(?i:bots?(?:\b|[_0-9])|\bbot|crawl|spider|scrap(?:er|ing|y)|slurp|headless)",
        "not listed; it calls itself a bot",
    ),
    (
        r"^(?i:mozilla/5\.0 )?(?i:[\w.-]*(?:check|monitor|scan|fetch|preview|valid|verif|probe|"
        r"research|survey|index|health|pinger|analyz|extract|inspect|detect|discover|grab|harvest|download|thumb|"
        r"screenshot|audit)[\w.-]*(?:/[\d.]+)?)$",
        "not listed; it names a task",
    ),
    (r"(?i:(?:synthetics|proxychecker/[\d.]+)\)?$)|\bPTST[ /]|wkhtmlto|google-(?:assess|amphtml|publisher|read-aloud)|"
     r"DuplexWeb-Google|[Tt]ranscoder;?\)", "not listed; it names a task"),
)  # fmt: skip

BEFORE_THE_LIST = (
    *(Rule("person", pattern) for pattern in _PEOPLE),
    *(Rule("proxy", pattern, name) for pattern, name in _PROXIES),
    *(Rule("scanner", pattern, name) for pattern, name in _SCANNERS),
)
AFTER_THE_LIST = tuple(Rule("bot", pattern, None, purpose) for pattern, purpose in _UNLISTED)

NO_BROWSER = "not listed; it names no browser, no system and no device"


def _any(words: str) -> str:
    """A pattern for any of these words, which are patterns themselves, separated by white space."""
    return f"(?i:{'|'.join(words.split())})"


# For each device the words that show it, for any case of letters. The first line that matches decides.
DEVICES = (
    # Consoles, watches, glasses, speakers, readers, printers.
    (
        "other",
        _any(
            r"""
            playstation nintendo xbox \bwii\b new\snintendo watch\s?os apple\swatch \bwatch\d wear\s?os
            SM-R[789]\d\d oculusbrowser \bquest\b \bVR\b sonos tesla/ qtcarbrowser
            echo[_\s](?:dot|show|spot|plus|studio) amazon;echo kindle/ eink kobo printer smart\s?display
            web\s?tv dreamcast ipod\s?touch\shw archos\sgamepad shield\sportable
            """
        ),
    ),
    # Also set-top boxes, and Android televisions by the inches in the name of the model.
    (
        "television",
        _any(
            r"""
            hbbtv smart[-_\s]?tv smarttva apple\s?tv google\s?tv android\s?tv [^-]\bTV\b _tv_ opentv panatv
            nettv web0s webos\.tv bravia netcast viera vizio roku crkey \bAFT[A-Z] \(DTV DTV[_\d] inettvbrowser
            espial ce-html \bOMI/ kreatv dunehd \btvos\b tv[-_\s]?box \bTVBOX set-?top \bSTB\b hybridcast
            netrange maple sonyceb sonydtv sonybdp bdp\b opera\stv machblue mbxt antgalio youview freebox ipla/
            \bKDL philips.*(?:tv|hts) loewe toshiba.*tv aquos-?tv aquosbrowser aquos-dmp tclwebkit
            \bShell\s\w{6} simplesmarttv mitv mibox mi\s?box chromecast nexus\splayer shield\sandroid fire\s?tv
            (?:wired|wireless)\) \bbox\b [a-z]box[-)\s_\d] [\s;]X9[268] [\s;]T9[5-9] [\s;]H96 A95X [\s;]HK1
            mecool ugoos beelink minix zidoo mygica rombica vontar transpeed \bATV dvb hisense.*tv skyworth
            coocaa polaroid.*tv \b(?:LD|TD|DM|SM|ELED|MLT|WUD|LED|QLED|OLED|UHD)[-_]?(?:LED)?[2-9]\d[A-Z\d]
            \bLT-[2-9]\d andr0id
            Android\s[\d.]+;\s(?:[A-Z]{1,8}[-_\s])?(?:[2-9]\d|100)(?:[A-Z]{1,5}[-_\s]?\d{2,5}[A-Z\d/_-]*)(?:\sBuild|\)|;)
            \bLED[-_\s]?TV \bsmart\s?box amlogic projector Amazon;AFT
            """
        ),
    ),
    (
        "desktop",
        _any(
            r"""
            chromebook elitebook probook thinkpad travelmate inspiron vostro latitude satellite\spro
            aspire\s[\dEV] netbook macbook imac\d mac\d+,\d ;\sdesktop; \(x86_64\)$
            darwin/[\d.]+\s\((?:x86_64|i386|power) mac\s?os/\d macos win10\sx64 windows\sxp microsoft\soffice
            """
        ),
    ),
    (
        "tablet",
        _any(
            r"""
            ipad tablet nook kindle silk/ playbook mediapad matepad \b\w*[-_\s]?tab[\d_\s-] \btab\b
            \b\w{0,12}pad\b _pad_ /apad \bSM-[TPX]\d{3} \bGT-[PN]\d{4} \bLenovo\s(?:TB|YT|A\d{4}-) \bTB-?[\dX]
            \bKF[A-Z]{3,5}\b nexus\s(?:7|9|10)\b pixel\sc\b xoom transformer iconia touchpad \bMID[-_\s]?\d
            \bAGS\d?- \b[A-Z]{3}\d?-W\d\d\b \bTPC[-_\s] \b(?:10|7|8|9)(?:\.\d)?\s?inch
            """
        ),
    ),
    (
        "phone",
        _any(
            r"""
            mobile iphone ipod windows\sphone blackberry bb10 midp cldc \bwap j2me symbian series\s?\d0
            opera\smini opera\smobi up\.browser ucweb ucbrowser maui kaios nokia palm webos/ windows\sce
            iemobile docomo kddi softbank vodafone/ obigo netfront teleca brew polaris/ openwave jasmine dolfin
            bada meego maemo phone fennec iris lumia foma kyocera uc\s?browser epoc jig\sbrowser cricket iOS\b
            ^(?:samsung|lg|sonyericsson|mot|motorola|zte|huawei|alcatel|sagem|sie|philips|panasonic|sharp|sanyo|nec|htc)[-_/\s]
            """
        ),
    ),
    # An application, whose user agent never has "Mobile".
    ("phone", _any(r"^Dalvik/ \bDalvik/[\d.]+\s?\(")),
    # A browser without "Mobile".
    ("tablet", _any(r"android")),
    (
        "desktop",
        _any(
            r"""
            windows macintosh mac\sos mac_powerpc \bX11\b wayland linux \bCrOS\b [a-z]*bsd\b sunos solaris irix
            aix hp-ux os/2 amiga aros morphos beos haiku openvms cygwin risc\s?os unix lindows suse
            win(?:9[58]|nt|1[06]|32|64)
            """
        ),
    ),
)

"""Short messages that say nothing by themselves: go-aheads and follow-ups, thanks and goodbyes.

Lists of whole messages in many languages and one rule of length: a few words that begin like the
continuation of a sentence, or point at something said before.
"""

from __future__ import annotations

import re

MAX_CHARS = 60
MAX_WORDS = 8

_EDGES = re.compile(
    r"[\s.,!?;:…·'\"“”„«»()\[\]*_~。，！？、；：؟،।\-\u2600-\u27bf\U0001f000-\U0001faff\ufe0f]+"
)

_CLOSINGS = """
thanks|thank you|thank you so much|thank you very much|thanks a lot|many thanks|thx|ty|tysm|cheers
thanks bye|ok thanks
okay thanks|great thanks|perfect thanks|perfect thank you|cool thanks|got it thanks
thanks that helped|thanks that worked
that worked thanks|that helped|bye|goodbye|bye bye|see you|see you later|see ya|cya|good night|gn
have a nice day|later|ok|okay|k|kk|ok cool|cool|great|nice|perfect|awesome|got it|i see
understood|alright|all right|fine|lol|haha|wow|no thanks|no thank you|never mind|nevermind|nvm
thats all|that's all|that is all|sounds good|will do|good job|well done|you rock|np|no problem
you're welcome
danke|danke schön|danke dir|vielen dank|besten dank|danke sehr|ok danke|super danke|tschüss|tschüs
ciao|bis dann|bis später|gute nacht|alles klar|passt|verstanden|super|prima|perfekt
auf wiedersehen|das wars|schönen tag noch
merci|merci beaucoup|ok merci|super merci|parfait merci|parfait|au revoir|à bientôt|bonne nuit
bonne journée|d'accord|compris|c'est bon|salut
gracias|muchas gracias|mil gracias|ok gracias|vale|vale gracias|perfecto|perfecto gracias|genial
entendido|adiós|adios|hasta luego|hasta mañana|buenas noches|chao|de acuerdo|listo gracias
obrigado|obrigada|muito obrigado|muito obrigada|valeu|ok obrigado|tchau|até logo|até mais
boa noite|beleza|perfeito|entendi|certo
grazie|grazie mille|molte grazie|ok grazie|perfetto|perfetto grazie|va bene|arrivederci|a presto
buonanotte|capito|ottimo
bedankt|dank je|dank u|dankjewel|dank je wel|hartelijk dank|oké|prima bedankt|doei|tot ziens
tot later|welterusten|begrepen
dziękuję|dzięki|dzieki|wielkie dzięki|ok dzięki|do widzenia|pa|na razie|dobranoc|dobra|rozumiem
super dzięki|świetnie
tack|tack så mycket|hej då|tusen takk|takk|takk skal du ha|tak|mange tak|farvel|ha det|kiitos
paljon kiitoksia|näkemiin|hei hei|moi moi|selvä
děkuji|díky|děkuju|na shledanou|ahoj|dobrou noc|ďakujem|vďaka|köszönöm|köszi|viszlát|szia
jó éjszakát|mulțumesc|multumesc|mersi|la revedere|noapte bună|hvala|hvala lepa|doviđenja|adijo
aitäh|nägemist|paldies|ačiū|благодаря|довиждане|чао
спасибо|спасибо большое|большое спасибо|спс|благодарю|пока|до свидания|до встречи|спокойной ночи
ок|окей|хорошо|понял|поняла|понятно|ясно|отлично|супер|ладно|дякую|дуже дякую|до побачення|бувай
добре|зрозуміло
ευχαριστώ|ευχαριστώ πολύ|σας ευχαριστώ|αντίο|γεια|καληνύχτα|εντάξει|τέλεια|τα λέμε
teşekkürler|teşekkür ederim|çok teşekkürler|çok teşekkür ederim|sağ ol|sağol|eyvallah|hoşça kal
görüşürüz|güle güle|iyi geceler|tamam|tamamdır|anladım|harika
شكرا|شكرا لك|شكرا جزيلا|شكراً|شكراً لك|شكراً جزيلاً|مع السلامة|وداعا|إلى اللقاء|تصبح على خير|حسنا|حسناً
تمام|ممتاز|فهمت|طيب|مرسی|ممنون|ممنونم|متشکرم|خیلی ممنون|خداحافظ|شب بخیر|باشه|شکریہ|بہت شکریہ
خدا حافظ
תודה|תודה רבה|המון תודה|להתראות|ביי|לילה טוב|בסדר|אוקיי|הבנתי|מעולה
धन्यवाद|शुक्रिया|बहुत धन्यवाद|बहुत बहुत धन्यवाद|अलविदा|फिर मिलेंगे|शुभ रात्रि|ठीक है|अच्छा|ঠিক আছে|ধন্যবাদ
অনেক ধন্যবাদ|বিদায়|நன்றி|మీకు ధన్యవాదాలు|dhanyavaad|shukriya|theek hai
谢谢|谢谢你|谢谢您|多谢|非常感谢|感谢|谢了|再见|拜拜|回见|晚安|好的|好|好吧|行|嗯|嗯嗯|明白|明白了
知道了|收到|好的谢谢|謝謝|謝謝你|再見|掰掰|好喔|了解
ありがとう|ありがとうございます|ありがとうございました|どうも|どうもありがとう|サンキュー
さようなら|またね|おやすみ|おやすみなさい|了解|了解です|わかりました|わかった|なるほど|オッケー
はい
감사합니다|고마워|고마워요|고맙습니다|감사해요|ㄱㅅ|안녕히 계세요|잘 가|잘자|안녕|알겠습니다
알겠어|알았어|네|넵|좋아요|오케이|ㅇㅋ|ㅋㅋ
ขอบคุณ|ขอบคุณครับ|ขอบคุณค่ะ|ขอบคุณมาก|ลาก่อน|บาย|โอเค|เข้าใจแล้ว|cảm ơn|cảm ơn bạn|cám ơn|cảm ơn nhiều
tạm biệt|chúc ngủ ngon|được rồi|terima kasih|makasih|terima kasih banyak|trims|selamat tinggal
sampai jumpa|selamat malam|oke|baik|baiklah|salamat|maraming salamat|paalam|asante|asante sana
kwaheri|dankie|baie dankie|totsiens
"""
_CONTINUATIONS = """
continue|please continue|continue please|go on|go ahead|proceed|please proceed|keep going|carry on
next|next one|next step|more|more please|and then|then|yes|yes please|yep|yeah|yup|y|sure
sure go ahead
ok continue|ok go ahead|ok do it|okay do it|do it|do that|just do it|yes do it|yes do that
please do|fix it|fix this|fix that|fix them|try again|again|once more|retry|redo|redo it|repeat
one more|another|another one|still broken
still failing|still not working|still the same|same error|same problem|it still fails|doesnt work
doesn't work|does not work|didn't work|it doesn't work|not working|that's wrong|thats wrong|wrong
no|nope|not quite|why|why not|how|how so
explain|explain more|elaborate|go deeper|more details|details|shorter|shorter please|longer
simpler|faster|run it|run it again|test it|show me|the second one|the first one|option a|option b
option 1|option 2|both|all of them|finish it|finish|undo|undo that|revert|revert it|any update
are you sure|really|what else|anything else|and
weiter|mach weiter|weitermachen|bitte weiter|fahre fort|fahr fort|los|ja|ja bitte|jawohl|mach das
mach es|tu es|nochmal|noch einmal|noch eins|noch mal|und dann|und jetzt|geht nicht
geht immer noch nicht|funktioniert nicht|immer noch kaputt|gleicher fehler|nein|kürzer|länger|mehr
mehr davon|repariere es|warum|wieso|bist du sicher|korrigiere das|und weiter|behebe es|behebe das
continue s'il te plaît|continuer|continuez|vas-y|vas y|allez|oui|oui s'il te plaît|ouais|encore
encore une fois|recommence|corrige|corrige ça|corrige-le|et ensuite|et après|ça ne marche pas
ça marche pas|toujours pas|non|plus court|plus long|pourquoi|fais-le|fais le|la suite|suivant
la deuxième
continúa|continua|continúe|sigue|sigue adelante|adelante|sí|si|sí por favor|si por favor|claro
dale|otra vez|de nuevo|inténtalo de nuevo|arréglalo|corrígelo|y luego|y después|no funciona
sigue sin funcionar|mismo error|más corto|más largo|más|hazlo|por qué|siguiente|la segunda
continue por favor|segue|prossiga|vai|vai em frente|pode continuar|sim|sim por favor|de novo
outra vez|tenta de novo|tente novamente|corrige isso|conserta|corrija|e depois|e agora
não funciona|não funcionou|mesmo erro|mais curto|mais|faça isso|faz isso|por quê|próximo|não
continua per favore|vai avanti|avanti|prosegui|procedi|sì|sì grazie|ancora|di nuovo|riprova
correggilo|sistemalo|e poi|non funziona|stesso errore|più corto|più breve|più lungo|fallo|perché
prossimo
ga door|ga verder|verder|doorgaan|ja graag|nog een keer|opnieuw|probeer opnieuw|los het op
repareer het|en dan|werkt niet|werkt nog steeds niet|korter|langer|meer|doe het|waarom|volgende
nee
kontynuuj|dalej|kontynuuj proszę|tak|tak proszę|jeszcze raz|ponownie|spróbuj ponownie|popraw
popraw to|napraw to|i co dalej|nie działa|nadal nie działa|ten sam błąd|krócej|dłużej|więcej
zrób to|dlaczego|następny|nie
fortsätt|gå vidare|ja tack|igen|en gång till|fixa det|fortsett|en gang til|fiks det|fortsæt|jatka
kyllä|uudestaan|korjaa se|pokračuj|dál|ano|znovu|oprav to|pokračuj prosím|áno|folytasd|tovább
igen kérem|még egyszer|javítsd ki|continuă|mai departe|da|încă o dată|din nou|repară|nastavi
još jednom|продължи|още веднъж|да
продолжай|продолжи|продолжайте|дальше|давай|давай дальше|да|да пожалуйста|ага|ещё|еще|ещё раз
еще раз|снова|заново|исправь|исправь это|почини|не работает|всё ещё не работает|та же ошибка
короче|длиннее|подробнее|сделай|сделай это|а дальше|и|почему|следующий|нет|продовжуй|далі|так
ще раз|виправ|виправ це|не працює|чому|ні
συνέχισε|συνέχεια|προχώρα|ναι|ναι παρακαλώ|ξανά|πάλι|διόρθωσέ το|δεν δουλεύει|δε δουλεύει|γιατί
όχι|και μετά
devam|devam et|devam edin|devam lütfen|evet|evet lütfen|tekrar|bir daha|tekrar dene|düzelt
bunu düzelt|çalışmıyor|hala çalışmıyor|aynı hata|daha kısa|daha uzun|sonra|yap|neden|niye|hayır
sıradaki
استمر|تابع|أكمل|اكمل|واصل|نعم|نعم من فضلك|مرة أخرى|مرة اخرى|أعد المحاولة|أصلحه|اصلحه|صححه|لا يعمل
نفس الخطأ|أقصر|أطول|المزيد|لماذا|لا|التالي|ادامه بده|ادامه|بله|دوباره|درستش کن|کار نمی‌کند
کار نمیکنه|چرا|نه|جاری رکھیں|ہاں|دوبارہ
המשך|תמשיך|תמשיכי|כן|כן בבקשה|שוב|עוד פעם|תתקן|תתקן את זה|תקן את זה|לא עובד|עדיין לא עובד|קצר יותר
למה|לא|הבא
जारी रखो|जारी रखें|आगे बढ़ो|आगे|हाँ|हां|जी हाँ|फिर से|दोबारा|ठीक करो|इसे ठीक करो|काम नहीं कर रहा|और|क्यों|नहीं
চালিয়ে যাও|হ্যাঁ|আবার|ঠিক করো|কেন|না|தொடரவும்|ஆம்|haan|aage badho|phir se
继续|请继续|继续吧|接着|接着说|接着写|下一步|下一个|然后呢|还有呢|是|是的|对|可以|嗯继续|再来
再来一次|再试一次|再试试|重试|重来|修复|修一下|修复它|改一下|改好它|还是不行|不行|还是报错
同样的错误|短一点|长一点|详细点|为什么|不|不是|不对|好的继续|繼續|請繼續|再一次|還是不行
続けて|続けてください|続き|次|次へ|次は|お願いします|はいお願いします|もう一度|もう一回|やり直して
直して|直してください|修正して|動かない|動きません|まだ動かない|同じエラー|短くして|もっと短く
もっと|なぜ|なんで|いいえ|それで
계속|계속해|계속해줘|계속해 줘|계속하세요|다음|다음은|응|예|네 계속|그래|다시|다시 해줘|다시 해 줘
한번 더|한 번 더|고쳐줘|고쳐 줘|수정해줘|안 돼|안돼|안 돼요|여전히 안 돼|같은 에러|더 짧게|더|왜
아니|아니요|그리고
ทำต่อ|ต่อ|ต่อไป|ใช่|อีกครั้ง|แก้|แก้ให้หน่อย|ไม่ทำงาน|ทำไม|tiếp tục|tiếp đi|tiếp|vâng|có|đúng|lại|thử lại
làm lại|sửa lại|sửa đi|vẫn lỗi|không chạy|tại sao|không|lanjut|lanjutkan|teruskan|ya|iya|lagi
ulangi|coba lagi|perbaiki|perbaiki itu|tidak jalan|masih error|kenapa|tidak|oo|ituloy|ulit|endelea
ndiyo|gaan voort|ja asseblief
"""
# How the continuation of a sentence begins (one beginning each, separated by |), and words that point back.
_BEGINNINGS = """
and |but |also |now |then |or |so |what about |how about |same |instead |ok now |okay now |yes but |no but
wait |make it |make that |make them |can you make it |could you make it |do the same |in that case |like this
und |aber |jetzt |oder |nun |dann |auch |mach es |mach das |et |mais |maintenant |ou |alors |aussi |y |e
pero |ahora |o |también |mas |agora |também |ed |ma |adesso |ora |anche |en |maar |nu |ook |ale |teraz |oraz
och |men |og |ja |mutta |nyt |és |és most |și |acum |и |а |но |теперь |или |тоже |та |але |тепер |και
αλλά |τώρα |ve |ama |peki |şimdi |لكن |الآن |اما |حالا |אבל |עכשיו |और |लेकिन |अब |এবং |কিন্তু
那|再|还有|現在|现在|改成|换成|換成|也|また|では|じゃあ|でも|今度は|それを|これを|그럼 |그런데 |이제 |그걸
이걸 |แล้ว|và |nhưng |còn |bây giờ |dan |tapi |sekarang |kalau
"""
_POINTERS_TABLE = """
it that this these those them same again instead too above previous earlier
das dies diese dieses dasselbe nochmal stattdessen auch ça cela ceci encore aussi eso esto esa otra
también isso isto também novamente questo quello anche ancora dit dat ook opnieuw to tego też znowu
это этот ещё еще тоже снова це цей теж bunu şunu bu tekrar هذا هذه ذلك זה यह इसे वही این را
đó này nó itu ini
"""
_POINTERS = frozenset(_POINTERS_TABLE.split())
# Here "it" points at nothing.
_EXPLETIVES = ("is it ", "will it ", "does it ", "what time is it", "what day is it", "it is ", "it's ")


def normal(text: str) -> str:
    """Return a short message in lower case with single spaces and without punctuation and emoji."""
    return _EDGES.sub(" ", text.lower()).strip()


def _phrases(table: str) -> frozenset[str]:
    return frozenset(normal(phrase) for line in table.strip().splitlines() for phrase in line.split("|"))


def _beginnings(table: str) -> tuple[str, ...]:
    # A line's end stands for the blank that ends a beginning of a spaced script.
    return tuple(begin for line in table.strip().splitlines() for begin in f"{line} ".split("|"))


_BEGINNINGS_FOUND = _beginnings(_BEGINNINGS)
CLOSINGS = _phrases(_CLOSINGS)
CONTINUATIONS = _phrases(_CONTINUATIONS) - CLOSINGS
_CLOSING_STARTS = frozenset(phrase.split()[0] for phrase in CLOSINGS)
LONGEST_CLOSING = max(len(phrase.split()) for phrase in CLOSINGS)


def is_closing(text: str) -> bool:
    """Tell whether a message is thanks, goodbye or mere agreement; simple whatever came before."""
    if len(text) > MAX_CHARS:
        return False
    bare = normal(text)
    return bare in CLOSINGS or (not bare and bool(text.strip())) or _is_chain(bare.split())


def _is_chain(words: list[str]) -> bool:
    """Tell whether the words are closings one after the other: "ok great thanks, good night"."""
    if not words or words[0] not in _CLOSING_STARTS:
        return False
    reached = {0}
    for start in range(len(words)):
        if start in reached and words[start] in _CLOSING_STARTS:
            ends = range(start + 1, min(start + LONGEST_CLOSING, len(words)) + 1)
            reached.update(end for end in ends if " ".join(words[start:end]) in CLOSINGS)
    return len(words) in reached


def is_continuation(text: str) -> bool:
    """Tell whether a message has its meaning from what was said before it."""
    if len(text) > MAX_CHARS or is_closing(text):
        return False
    bare = normal(text)
    if bare in CONTINUATIONS:
        return True
    words = bare.split()
    if len(words) > MAX_WORDS or (len(words) == 1 and len(bare) > 24):
        return False
    if bare.startswith(_EXPLETIVES):
        return False
    return bare.startswith(_BEGINNINGS_FOUND) or (len(words) <= 6 and not _POINTERS.isdisjoint(words))
